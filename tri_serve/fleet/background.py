"""Tasks that go on beside everything else: nobody awaits them before the end, so a failure is logged at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


def go_on(coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task that is meant to last; if it fails, what it did is done no more, and the log says so."""
    task = asyncio.create_task(coroutine, name=name)
    task.add_done_callback(_note_failure)
    return task


def _note_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the task %r of this process failed: %r", task.get_name(), error, exc_info=error)
