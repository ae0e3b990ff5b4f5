"""What can be seen of a fleet: the catalogue of metric names."""
