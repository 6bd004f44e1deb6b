"""What runs inside Triton: these modules travel with the model, not with an image."""
