"""The CPU stand-in of FasterTransformer's Triton backend: the same files and tensors, computed with numpy."""
