"""A small Hugging Face Hub over a folder of models: what `huggingface_hub`'s own client calls to read a model."""
