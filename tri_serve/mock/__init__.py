"""The mock engine: an OpenAI-compatible server that paces its answers exactly and misbehaves on request.

For tests, demos and benchmarks. It speaks as vLLM 0.32 does and needs no model.
"""
