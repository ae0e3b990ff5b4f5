"""Load tests whose figures can be believed: scenario → schedule → Locust users → records → figures → verdict.

Nothing here imports Locust or gevent but ``wire`` (gevent's sockets) and ``swarm`` (Locust).
"""
