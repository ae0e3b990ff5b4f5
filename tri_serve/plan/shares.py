"""Which share of a device's bandwidth and arithmetic an engine attains: a prior, or what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tri_serve.plan.facts import Gpu
from tri_serve.plan.result import AttainedShare, Range

Evidence = Literal["prior", "calibrated"]
Basis = Literal["measured", "beyond what was measured", "prior"]
End = Literal["slow", "likely", "fast"]
ENDS: tuple[End, ...] = ("fast", "likely", "slow")


@dataclass(frozen=True, slots=True)
class Pace:
    """One end of the shares: how fast things go if that end is true."""

    memory: tuple[tuple[int, float], ...]
    """Share of the bandwidth, at so many sequences at once; by rising number."""
    compute: float
    """Share of the arithmetic while generating."""
    prefill: float
    """Share of the arithmetic while reading prompts."""
    overhead: float
    """Seconds of each step in which the device waits for the engine."""
    exchange: float
    """Seconds that each exchange between GPUs takes beside moving its bytes."""
    link: float
    """Share of the bandwidth between GPUs."""

    def memory_at(self, batch: float) -> float:
        """The share with ``batch`` sequences: straight lines over log2(batch), level beyond both ends."""
        return interpolated(self.memory, batch)


def interpolated(knots: tuple[tuple[int, float], ...], batch: float) -> float:
    """A share between those that are known: straight lines over log2(batch), level beyond both ends."""
    before_batch, before = knots[0]
    if batch <= before_batch:
        return before
    for at, share in knots[1:]:
        if batch <= at:
            along = math.log2(batch / before_batch) / math.log2(at / before_batch)
            return before + along * (share - before)
        before_batch, before = at, share
    return before


@dataclass(frozen=True)
class Shares:
    """The attained shares as ranges, and what they rest on. ``high`` of a share is fast; of seconds, slow."""

    memory: tuple[tuple[int, Range], ...]
    compute: Range
    prefill: Range
    overhead: Range
    exchange: Range
    link: Range
    evidence: Evidence
    detail: str
    """For people: which measurements, or which prior."""
    file: str | None = None
    """The calibration file that they are from; none: a prior."""
    measured_batches: tuple[int, ...] = ()
    """Sequences at once for which ``memory`` was measured; the rest of it reaches beyond them."""
    measured: tuple[Literal["compute", "prefill"], ...] = ()
    """Which other shares were."""

    def attained(self) -> tuple[AttainedShare, ...]:
        """The same for people and programs, each with what it rests on."""
        shares = [
            AttainedShare(of="bandwidth", batch=batch, share=share, basis=self._basis(batch))
            for batch, share in self.memory
        ]
        generating = AttainedShare(
            of="arithmetic, generating",
            share=self.compute,
            basis="measured" if "compute" in self.measured else "prior",
        )
        prompts = AttainedShare(
            of="arithmetic, prompts",
            share=self.prefill,
            basis="measured" if "prefill" in self.measured else "prior",
        )
        return (*shares, generating, prompts)

    def _basis(self, batch: int) -> Basis:
        if not self.measured_batches:
            return "prior"
        return "measured" if batch in self.measured_batches else "beyond what was measured"

    def pace(self, end: End) -> Pace:
        """What the shares are at one end of their ranges."""
        return Pace(
            memory=tuple((batch, _share(share, end)) for batch, share in self.memory),
            compute=_share(self.compute, end),
            prefill=_share(self.prefill, end),
            overhead=_seconds(self.overhead, end),
            exchange=_seconds(self.exchange, end),
            link=_share(self.link, end),
        )


def prior_shares(gpu: Gpu) -> Shares:
    """What is assumed of a device that nobody has measured: experience with such engines, not a measurement."""
    if gpu.is_cpu:
        return Shares(
            memory=((1, Range(low=0.2, likely=0.45, high=0.75)),),
            compute=Range(low=0.1, likely=0.3, high=0.6),
            prefill=Range(low=0.1, likely=0.3, high=0.6),
            overhead=Range(low=0.004, likely=0.01, high=0.03),
            exchange=Range(low=20e-6, likely=100e-6, high=500e-6),
            link=Range(low=0.2, likely=0.4, high=0.7),
            evidence="prior",
            detail="a rough prior for CPUs: what cores and memory attain differs widely from machine to machine",
        )
    return Shares(
        # Kernels of few sequences do little but read weights; with more, attention and scheduling take their part.
        memory=((8, Range(low=0.45, likely=0.6, high=0.75)), (32, Range(low=0.375, likely=0.5, high=0.625))),
        compute=Range(low=0.45, likely=0.6, high=0.75),
        prefill=Range(low=0.4, likely=0.55, high=0.7),
        # vLLM schedules while the device works; what is left of it shows with fast devices and small models.
        overhead=Range(low=0.0, likely=0.0005, high=0.0015),
        # From custom all-reduce kernels over NVLink (low) to NCCL over PCIe (high).
        exchange=Range(low=8e-6, likely=20e-6, high=50e-6),
        link=Range(low=0.4, likely=0.6, high=0.8),
        evidence="prior",
        detail="a prior: 38-75% of the bandwidth, 40-75% of the arithmetic; measure, then plan calibrate",
    )


def _share(share: Range, end: End) -> float:
    return {"slow": share.low, "likely": share.likely, "fast": share.high}[end]


def _seconds(seconds: Range, end: End) -> float:
    return {"slow": seconds.high, "likely": seconds.likely, "fast": seconds.low}[end]
