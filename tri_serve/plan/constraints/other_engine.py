"""The rule on engines whose source the rules are not from."""

from __future__ import annotations

from collections.abc import Iterator

from tri_serve.plan.constraints.request import Request
from tri_serve.plan.constraints.rule import Found, Rule


def _other_engine(request: Request) -> Iterator[Found]:
    if request.spec.engine.kind != "vllm":
        yield Found(
            "note",
            "rules on kernels, attention, flags and the driver are read from vLLM's source, and not held against "
            f"{request.engine}; its memory is counted as vLLM would use it",
        )


OTHER_ENGINE = Rule(
    "other-engine",
    "Of another engine than vLLM it is said which rules were not applied.",
    "tri-serve's own rules",
    ("note",),
    _other_engine,
    any_engine=True,
)

RULES = (OTHER_ENGINE,)
