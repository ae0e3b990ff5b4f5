"""How far the load client can be believed: its ceiling, its truth, its agreement with vLLM's benchmark."""
