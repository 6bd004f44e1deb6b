"""The CPU stand-in of TensorRT-LLM: its commands, its checkpoint and engine folders, and its Triton model, computed with numpy."""
