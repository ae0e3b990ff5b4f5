"""How long a fleet takes to start, beside bare servers: ``python -m benchmarks.start_up``."""
