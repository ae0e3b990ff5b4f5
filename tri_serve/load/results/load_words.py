"""What load was sent, in one line: without it a report's figures are of nothing in particular."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def load_words(scenario: Mapping[str, Any]) -> str:
    """Of a scenario as a result has it (``scenario.resolved``); empty where there is none."""
    arrivals = scenario.get("arrivals")
    if not arrivals:
        return ""
    times = ", ".join(_times(scenario))
    return "; ".join((_arrivals(arrivals), times, f"seed {scenario.get('seed', 1)}"))


def _arrivals(arrivals: Mapping[str, Any]) -> str:
    match arrivals.get("kind"):
        case "closed":
            users = arrivals["users"]
            begun = f", begun over {arrivals['stagger']:g} s" if arrivals.get("stagger") and users > 1 else ""
            think = f", pausing {arrivals['think']:g} s on average" if arrivals.get("think") else ""
            return f"closed loop, {users:,} {'user' if users == 1 else 'users'}{begun}{think}"
        case "gamma":
            shape = f"gamma arrivals (burstiness {arrivals.get('burstiness', 1.0):g})"
            return f"open loop, {shape} at {arrivals['rate']:g}/s"
        case "ramp":
            return f"open loop, a ramp from {arrivals.get('from_rate', 0.0):g}/s to {arrivals['to_rate']:g}/s"
        case "steps":
            steps = ", ".join(f"{step['rate']:g}/s for {step['seconds']:g} s" for step in arrivals["steps"])
            return f"open loop, steps of {steps}"
        case "spike":
            spike = f"{arrivals['spike_rate']:g}/s for {arrivals['seconds']:g} s from {arrivals['at']:g} s on"
            return f"open loop, Poisson arrivals at {arrivals['rate']:g}/s, a spike of {spike}"
        case kind:
            named = {"poisson": "Poisson", "constant": "evenly spaced"}.get(str(kind), str(kind))
            return f"open loop, {named} arrivals at {arrivals['rate']:g}/s"


def _times(scenario: Mapping[str, Any]) -> Iterator[str]:
    if scenario.get("warm_up"):
        yield f"warm-up {scenario['warm_up']:g} s"
    yield f"window {scenario['window']:g} s"
    if scenario.get("requests"):
        yield f"at most {scenario['requests']:,} requests"
    if scenario.get("cool_down"):
        yield f"cool-down {scenario['cool_down']:g} s"
