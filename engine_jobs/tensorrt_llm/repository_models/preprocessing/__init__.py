"""Triton Python-backend model `preprocessing`."""
