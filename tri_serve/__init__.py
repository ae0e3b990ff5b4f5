"""tri-serve: one 4-bit language model, from a checkpoint to a watched endpoint."""

__version__ = "0.1.0.dev0"
