"""The pacer never calls early, and lets one late stream not hold up others."""

from __future__ import annotations

import asyncio
import time

from tri_serve.mock.pacer import Pacer


def test_steps_come_in_the_order_of_their_times_and_never_early() -> None:
    seen: list[tuple[str, float]] = []

    async def run() -> float:
        pacer = Pacer(asyncio.get_running_loop())
        begun = time.monotonic()

        def step(name: str) -> None:
            seen.append((name, time.monotonic() - begun))

        pacer.add(begun + 0.06, lambda: step("third"))
        pacer.add(begun + 0.02, lambda: step("first"))
        pacer.add(begun + 0.04, lambda: step("second"))
        await asyncio.sleep(0.3)
        return begun

    asyncio.run(run())
    assert [name for name, _ in seen] == ["first", "second", "third"]
    assert all(at >= due for (_, at), due in zip(seen, (0.02, 0.04, 0.06), strict=True))


def test_a_stream_that_is_behind_takes_one_step_a_turn() -> None:
    order: list[str] = []

    async def run() -> None:
        pacer = Pacer(asyncio.get_running_loop())
        past = time.monotonic() - 1

        def steps(name: str, count: int):  # type: ignore[no-untyped-def]
            left = iter(range(count))

            def step() -> float | None:
                order.append(name)
                return past if next(left) < count - 1 else None

            return step

        pacer.add(past, steps("a", 3))
        pacer.add(past, steps("b", 3))
        await asyncio.sleep(0.1)

    asyncio.run(run())
    assert order == ["a", "b", "a", "b", "a", "b"]
