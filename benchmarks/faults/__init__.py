"""What clients see while parts of a fleet are killed: ``python -m benchmarks.faults SCENARIO``."""
