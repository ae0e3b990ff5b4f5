"""The spec: the user's one file, its typed form, and how it is found, merged and checked."""
