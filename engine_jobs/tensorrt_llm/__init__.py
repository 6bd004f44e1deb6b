"""What the recipes with TensorRT-LLM share: its versions, flags, limits and memory, and the model repository of its Triton backend."""
