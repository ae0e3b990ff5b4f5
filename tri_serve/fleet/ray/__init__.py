"""Ray Serve as the supervisor of engines and gateways: the only place that knows Ray.

``runtime`` stands in the supervisor and does not import Ray: it starts a private Ray (``head``) and talks to the
``bridge``, a process of its own that is Ray's client, so that whatever happens to Ray happens to the bridge alone.
The bridge deploys ``agents``: Serve deployments ``Engine`` and ``Gateway``, each of which owns one child program.
"""
