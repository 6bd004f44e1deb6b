"""Recipes and the container-side programs that turn a checkpoint into a served model."""
