"""Load tests with plain Locust: its web UI, or headless, in one process or many.

    locust -f loadtests/locustfile.py --headless -H http://127.0.0.1:8000 --scenario chat-ko
    locust -f loadtests/locustfile.py --processes 4                # the web UI, on http://127.0.0.1:8089

docs/load-tests.md lists the options that this file adds: Locust answers ``--help`` before it reads a file.
A client key is read from TRI_SERVE_API_KEY.
"""

from tri_serve.load.swarm.locustfile import ModelUser, RunShape

__all__ = ["ModelUser", "RunShape"]
