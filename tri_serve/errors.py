"""Every error that tri-serve raises on purpose, and the exit code each one ends a command with.

TriServeError                      1   a command ran and failed
├── SloMissedError                 1   a load was answered, but not as promised
├── UsageError                     2   the command line asks for something that cannot be
│   └── TooLongError               2   a length that is asked about is more than the model takes
├── RegressionError                3   a load result is worse than the one it is compared with
├── ClientSaturatedError           4   the figures of a load are the client's own, not the server's
├── ServerUnhealthyError           5   the server failed under a load
├── SpecError                     10   tri-serve.yaml (or what overrides it) is wrong
├── CheckpointError               11   the checkpoint is missing, damaged or not what the spec says
├── LaunchError                   12   no engine of that version takes this configuration
├── EngineEnvironmentError        13   the engine environment is missing or broken
├── ResourceError                 14   port, memory, disk or file descriptors do not suffice
├── EngineStartError              15   an engine did not become ready
├── GatewayStartError             16   the gateway did not become ready
├── FleetError                    17   the release is not there, not ours, or did not answer
├── ConnectionFailedError         18   an endpoint did not answer or refused
├── MissingExtraError             19   an optional part of tri-serve is not installed
├── SpawnError                    20   a program could not be executed at all
└── LoadBrokeOffError             21   a load generator ended without a result

1 to 5 are what `tri-serve load` can end with. 130 is Ctrl-C.

A message is one line: what is wrong, where, what is allowed. `hint` says what to do next.
"""

from __future__ import annotations

from pathlib import Path


class TriServeError(Exception):
    """Base of the tree. ``exit_code`` is what a command ends with; ``hint`` is the next step, if one is known."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class SloMissedError(TriServeError):
    """A load was answered, but not within its SLO."""


class UsageError(TriServeError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class TooLongError(UsageError):
    """A length that is asked about is more than model.max_model_len allows; a shorter one may do."""


class RegressionError(TriServeError):
    """A load result is worse than the one it is compared with, by more than chance."""

    exit_code = 3


class ClientSaturatedError(TriServeError):
    """The client could not send or stamp the load as described: its figures say nothing of the server."""

    exit_code = 4


class ServerUnhealthyError(TriServeError):
    """The server failed under a load: too many failed requests, no answer at all, an engine that died."""

    exit_code = 5


class SpecError(TriServeError):
    """A spec is wrong. ``problems`` holds one line per mistake; ``source`` names the file, variable or flag."""

    exit_code = 10

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        source: str | None = None,
        problems: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.source = source
        self.problems = problems


class CheckpointError(TriServeError):
    """The checkpoint at ``path`` is missing, damaged, or not what the spec says."""

    exit_code = 11

    def __init__(self, message: str, *, path: Path | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path


class LaunchError(TriServeError):
    """No engine of the chosen kind and version takes this configuration."""

    exit_code = 12


class EngineEnvironmentError(TriServeError):
    """The engine environment (a Python, a command or an image) is missing or broken."""

    exit_code = 13


class ResourceError(TriServeError):
    """The machine lacks what is asked for: a port, memory, disk, file descriptors."""

    exit_code = 14


class EngineStartError(TriServeError):
    """An engine did not become ready. ``log_tail`` holds its last words."""

    exit_code = 15

    def __init__(self, message: str, *, hint: str | None = None, log_tail: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.log_tail = log_tail


class GatewayStartError(TriServeError):
    """The gateway did not become ready. ``log_tail`` holds its last words."""

    exit_code = 16

    def __init__(self, message: str, *, hint: str | None = None, log_tail: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.log_tail = log_tail


class FleetError(TriServeError):
    """The release is not there, is not ours, or its supervisor did not answer."""

    exit_code = 17


class ConnectionFailedError(TriServeError):
    """An endpoint did not answer, or refused. ``status`` is its HTTP status, if it sent one."""

    exit_code = 18

    def __init__(self, message: str, *, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


LOCAL_PARTS = frozenset({"gateway", "checkpoint", "ray"})
"""Optional parts that the extra ``local`` brings together (pyproject.toml): what ``up`` needs on one machine."""


class MissingExtraError(TriServeError):
    """An optional part of tri-serve is not installed. ``extra`` names it; ``otherwise`` is how to do without.

    The hint is the same for each that ``up`` needs: who installs one is not told of the next one after it. pip
    takes the version that is installed, be it from an index or from a clone, and adds its parts.
    """

    exit_code = 19

    def __init__(self, extra: str, purpose: str, *, otherwise: str | None = None) -> None:
        super().__init__(
            f"{purpose} needs the optional part '{extra}', which is not installed here",
            hint=f"pip install 'tri-serve[{'local' if extra in LOCAL_PARTS else extra}]'"
            + (f", or {otherwise}" if otherwise else ""),
        )
        self.extra = extra


class SpawnError(TriServeError):
    """A program could not be executed: it is not there, or may not be."""

    exit_code = 20


class LoadBrokeOffError(TriServeError):
    """A load generator ended without a result, for a reason that is not the server's and not the command line's."""

    exit_code = 21
