"""What Locust loads, here and through loadtests/locustfile.py: one user, one shape, and our listeners."""

from locust import events

from tri_serve.load.swarm.plugin import register
from tri_serve.load.swarm.users import ModelUser, RunShape

__all__ = ["ModelUser", "RunShape"]

register(events)
