"""How long a fleet waits until it tries again to add engines that did not start."""

from __future__ import annotations

from tri_serve.fleet.sizing import Pause


def test_each_failure_doubles_the_pause_up_to_ten_minutes() -> None:
    pause = Pause()
    assert pause.over(0.0)
    assert [pause.failed(100.0) for _ in range(10)] == [2, 4, 8, 16, 32, 64, 128, 256, 512, 600]
    assert pause.failed(100.0) == 600


def test_a_try_is_due_when_the_pause_is_over() -> None:
    pause = Pause()
    pause.failed(100.0)
    assert not pause.over(101.9)
    assert pause.over(102.0)


def test_engines_that_start_clear_the_record() -> None:
    pause = Pause()
    pause.failed(100.0)
    pause.failed(102.0)
    pause.reset()
    assert pause.over(102.0)
    assert pause.failed(103.0) == 2
