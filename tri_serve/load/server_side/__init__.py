"""What the gateway and the engines say of the same window."""
