"""The gateway: a raw HTTP/1.1 router between OpenAI clients and engines. It knows nothing of Ray or of fleets."""
