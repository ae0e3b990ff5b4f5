"""The checkpoint: facts read from its files without torch, and the tiny one that ships with tri-serve."""
