"""What fits on a GPU, how fast it should be, and what cannot work."""
