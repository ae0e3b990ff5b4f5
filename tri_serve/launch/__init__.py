"""From a spec to the exact command of one engine, and the environments that engines run from."""
