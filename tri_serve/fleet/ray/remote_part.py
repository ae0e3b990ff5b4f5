"""What replica and gateway have in common when an agent in Ray keeps them."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from tri_serve.errors import FleetError
from tri_serve.fleet.ray.client import BridgeLostError

if TYPE_CHECKING:
    from tri_serve.fleet.ray.runtime import RayRuntime

log = logging.getLogger(__name__)

AGAIN_SECONDS = 0.5
_Answer = TypeVar("_Answer", bound=BaseModel)


def understood(kind: type[_Answer], answer: object) -> _Answer:
    """What an agent says. Raises FleetError if it says it in another way than agents of this version."""
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        raise FleetError(
            f"its agent is not understood: {str(error).splitlines()[0]}",
            hint="another version of tri-serve may have started it: tri-serve down, then tri-serve up",
        ) from error


class RemotePart(ABC):
    """A part whose agent is made, followed, and made again when it is lost."""

    def __init__(
        self, runtime: RayRuntime, name: str, node: str | None, on_change: Callable[[], None]
    ) -> None:
        self.name = name
        self.node = node
        self._runtime = runtime
        self._on_change = on_change

    @abstractmethod
    async def _deploy_and_follow(self) -> None:
        """Have the agent, and take what it says until it is lost. Raises FleetError."""

    @abstractmethod
    def _lost(self, error: FleetError) -> None:
        """The agent does not answer: what it kept is gone, or will be replaced."""

    @property
    @abstractmethod
    def _error_shown(self) -> str | None:
        """What is said of it now."""

    async def _live(self) -> None:
        while True:
            await self._runtime.wait_up()
            try:
                await self._deploy_and_follow()
            except BridgeLostError as error:
                log.info("%s: %s", self.name, error)  # the agent goes on; if Ray died, ``ray_died`` says so
            except FleetError as error:
                self._lost(error)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _check_goes_on(self, phase: str) -> None:
        """Raises FleetError for an agent that was stopped, and not by this supervisor: its place gets another."""
        if phase == "stopped":
            await self._runtime.delete(self.name)
            raise FleetError("its agent had been stopped; it is made again")

    def _waits(self, reason: str) -> None:
        """It cannot be placed now; Ray goes on trying."""
        if self._error_shown != reason:
            self._lost(FleetError(reason))

    def ray_died(self, error: FleetError) -> None:
        """Ray is gone, and the agent with it."""
        self._lost(error)
