"""The recipe `triton-python`: Hugging Face causal language models in Triton's Python backend."""
