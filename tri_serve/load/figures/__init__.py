"""Figures from records: two families of definitions, named apart (``ttft`` is ours, ``ttft_vllm`` is vLLM's)."""
