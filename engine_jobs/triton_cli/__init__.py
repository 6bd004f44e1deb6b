"""Both ways of «Deploying Hugging Face Llama2-7b Model in Triton»: `triton import`, and the engine built by hand."""
