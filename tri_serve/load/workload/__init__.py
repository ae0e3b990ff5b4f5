"""What is asked: items with exact token lengths, from texts written for this project or from files."""
