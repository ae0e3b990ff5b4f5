"""A described load: a strict, seeded YAML file, and what is made of it."""
