"""Locust's way into tri-serve's load tests.

    locust -f loadtests/locustfile.py --headless -H http://127.0.0.1:8000 --scenario chat-ko
    locust -f loadtests/locustfile.py --processes 4                # the web UI, on http://127.0.0.1:8089

``--help`` lists the options under "tri-serve options"; a client key is read from TRI_SERVE_API_KEY.
"""

from locust import events

from tri_serve.load.swarm.plugin import register
from tri_serve.load.swarm.users import ModelUser, RunShape

__all__ = ["ModelUser", "RunShape"]

register(events)
