"""Triton Python-backend model `tensorrt_llm_bls`."""
