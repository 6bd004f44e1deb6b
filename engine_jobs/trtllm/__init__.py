"""A Llama-like checkpoint built into a TensorRT-LLM engine and served by Triton from the five-model repository."""
