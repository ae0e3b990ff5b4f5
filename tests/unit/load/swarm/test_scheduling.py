"""The real-time class: taken where it is allowed, given back, and not passed on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tri_serve.load.swarm.scheduling import real_time

_OWN_CLASS = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)"]


@pytest.fixture
def ordinary() -> Iterator[None]:
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    os.sched_setscheduler(0, before, parameters)


@pytest.mark.usefixtures("ordinary")
def test_the_class_is_given_back_and_children_are_ordinary() -> None:
    with real_time() as got:
        inside = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        child = int(subprocess.run(_OWN_CLASS, check=True, capture_output=True, text=True).stdout)
    # Not every user has the right: what is said is what is.
    assert inside == (os.SCHED_RR if got else os.SCHED_OTHER)
    assert child == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_nothing_is_taken_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_setscheduler", _refuse)
    with real_time(wanted=False) as got:
        assert not got


def test_a_refusal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_setscheduler", _refuse)
    with real_time() as got:
        assert not got


def test_who_is_in_a_real_time_class_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getscheduler", lambda _pid: os.SCHED_FIFO)
    monkeypatch.setattr(os, "sched_setscheduler", _refuse)
    with real_time() as got:
        assert got


def _refuse(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")
