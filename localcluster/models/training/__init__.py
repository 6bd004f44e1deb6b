"""How the tiny models that ship with the repository were trained: what the scripts beside this package have in common.

Needs torch, transformers (4.x), tokenizers and safetensors, which the project itself does not use.
"""
