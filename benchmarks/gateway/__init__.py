"""The gateway against HAProxy and vllm-router, normalised by the CPU time that each router itself uses."""
