"""Triton Python-backend model `postprocessing`."""
