"""The FasterTransformer recipe: BLOOM checkpoints converted to FT's binaries, served by Triton."""
