"""A run's result: native JSON, vLLM's benchmark JSON, one HTML page, comparisons."""
