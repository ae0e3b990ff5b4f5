"""Locust's user and shape for a run of ours."""

from __future__ import annotations

from typing import ClassVar

import gevent
from locust import LoadTestShape, User, task
from locust.env import Environment

from tri_serve.load.swarm.plugin import host_of

_WAIT_SECONDS = 0.05
"""Until it looks again whether the prompts are made; the start is agreed on half a second before it comes."""


class ModelUser(User):
    """In a closed loop one of the scenario's users, who asks, waits for the answer, and asks again.

    In an open loop requests come when they are due, and not when a user is free: there is one idle user a process.
    """

    abstract = False

    @task
    def play(self) -> None:
        """The whole run."""
        member = host_of(self.environment).member
        share = member.share if member is not None else None
        if share is None or share.finished.is_set() or not share.started.wait(_WAIT_SECONDS):
            gevent.sleep(_WAIT_SECONDS)
            return
        user = next(share.users, None)
        if user is not None:
            share.play(user)
        share.finished.wait()


class RunShape(LoadTestShape):
    """Keeps Locust's test going for as long as the run goes on.

    ``-u`` and ``-t`` are read by our own options, so that Locust need not say that it ignores them.
    """

    abstract = False
    use_common_options: ClassVar[bool] = True
    environment: Environment | None = None

    def tick(self) -> tuple[int, float] | None:
        """Asked once a second by Locust."""
        assert self.runner is not None, "Locust gives the shape its runner"
        return host_of(self.runner.environment).tick()
