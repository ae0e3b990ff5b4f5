"""Ties a run of ours to Locust's events: what a locustfile calls."""

from __future__ import annotations

import os
import sys
from typing import Any

from locust.env import Environment
from locust.event import Events
from locust.runners import WorkerRunner

from tri_serve.errors import TriServeError
from tri_serve.load.swarm.host import Host
from tri_serve.load.swarm.options import add_options, take_over
from tri_serve.load.swarm.outcome import NothingMeasuredError
from tri_serve.load.swarm.telling import PROGRESS_FD, Teller

_ATTRIBUTE = "tri_serve_host"


def host_of(environment: Environment) -> Host:
    """Ours, of this Locust environment."""
    host = getattr(environment, _ATTRIBUTE)
    assert isinstance(host, Host)
    return host


def register(events: Events) -> None:
    """Add our options and listeners to Locust's events. A locustfile calls it once, at its top."""
    events.init_command_line_parser.add_listener(_on_parser)  # type: ignore[no-untyped-call]
    events.init.add_listener(_on_init)  # type: ignore[no-untyped-call]
    events.test_start.add_listener(_on_test_start)  # type: ignore[no-untyped-call]
    events.test_stopping.add_listener(_on_test_stopping)  # type: ignore[no-untyped-call]
    events.quitting.add_listener(_on_quitting)  # type: ignore[no-untyped-call]


def _on_parser(parser: Any, **_: Any) -> None:
    add_options(parser)


def _on_init(environment: Environment, web_ui: Any = None, **_: Any) -> None:
    descriptor = os.environ.get(PROGRESS_FD)
    options: Any = environment.parsed_options
    take_over(options)
    host = Host(environment, Teller(int(descriptor) if descriptor else None))
    setattr(environment, _ATTRIBUTE, host)
    if isinstance(environment.runner, WorkerRunner):
        return
    if web_ui is not None:
        from tri_serve.load.swarm.web import extend

        extend(web_ui, host)
        if environment.shape_class is not None:
            # The form then shows our own fields in place of Locust's users and spawn rate.
            type(environment.shape_class).use_common_options = False
    elif options.headless:
        try:
            host.prepare()
        except TriServeError as error:
            host.fail(error)
            sys.exit(host.exit_code)
        except KeyboardInterrupt:
            host.fail(NothingMeasuredError("ended by Ctrl-C before anything was measured"))
            sys.exit(host.exit_code)


def _on_test_start(environment: Environment, **_: Any) -> None:
    host_of(environment).start()


def _on_test_stopping(environment: Environment, **_: Any) -> None:
    host_of(environment).stop("the test was stopped")


def _on_quitting(environment: Environment, **_: Any) -> None:
    host = getattr(environment, _ATTRIBUTE, None)
    if isinstance(host, Host):
        host.stop("Locust was ended")
        if host.exit_code is not None:
            environment.process_exit_code = host.exit_code
