"""The recipe `torchserve-accelerate`: a checkpoint in a TorchServe model archive, loaded with Hugging Face Accelerate."""
