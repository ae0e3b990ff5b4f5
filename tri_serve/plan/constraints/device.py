"""The rule on the kind of device that the spec asks for."""

from __future__ import annotations

from collections.abc import Iterator

from tri_serve.plan.constraints.request import Request
from tri_serve.plan.constraints.rule import Found, Rule

KEY = "engine.device"


def _device(request: Request) -> Iterator[Found]:
    asked, there = request.spec.engine.device, "cpu" if request.on_cpu else "cuda"
    if asked not in ("auto", there):
        yield Found(
            "refusal",
            f"{KEY} is {asked}, and this plan is for {request.device.gpu.title}",
            change={KEY: there},
            advice="or --gpu cpu plans for the CPU" if asked == "cpu" else "or --gpu NAME plans for a GPU",
        )


DEVICE = Rule(
    "device",
    "`engine.device` is the kind of device that the plan is for.",
    "tri-serve's own launch configs: the command would start an engine for another device",
    ("refusal",),
    _device,
    any_engine=True,
)

RULES = (DEVICE,)
