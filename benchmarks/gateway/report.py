"""From raw rounds to a table that can be read, in Markdown, which a terminal shows as well."""

from __future__ import annotations

import math
import statistics
from typing import Any

from .intervals import Interval, of_differences, of_ratios

OURS = "tri-serve"
LEFT_OUT = (
    "Not in the comparison: TLS, HTTP/2, more than one worker or thread, routing policies (all spread evenly; "
    "vllm-router and tri-serve parse each request, HAProxy does not), streams at saturation, and the kernel's "
    "socket memory. Client and engines share the cores that the router does not have. In requests they are wrk and "
    "nginx, and keep it busy; elsewhere they are Python and do not: there its own CPU time is what counts."
)

# Kernel threads and timer ticks stay below this.
_BUSY = 0.05
# A router with less of its core used was not at its limit.
_SATURATED = 0.9

Rounds = list[dict[str, dict[str, dict[str, float]]]]
"""Round → router → scenario → figures."""

_MEASURES = {
    "requests": "requests_per_cpu_second",
    "requests_light": "requests_light_per_cpu_second",
    "chunks": "chunks_per_cpu_second",
}
"""Scenario → the figure that is compared. In a summary it stands for its scenario, so no two share a name."""


def summarise(rounds: Rounds) -> dict[str, Any]:
    """Means and intervals by router, and paired ratios of ours to each peer."""
    routers = list(dict.fromkeys(name for one in rounds for name in one))
    shares = [
        figures["others_cpu_share"] for one in rounds for loads in one.values() for figures in loads.values()
    ]
    summary: dict[str, Any] = {"routers": {}, "ratios": {}, "others_cpu_share": statistics.fmean(shares)}
    for router in routers:
        figures: dict[str, Any] = {}
        for scenario, key in _MEASURES.items():
            values = _column(rounds, router, scenario, key)
            if values:
                figures[key] = _plain(of_differences(values))
        if busy := _column(rounds, router, "requests", "cpu_share"):
            figures["requests_cpu_share"] = _plain(of_differences(busy))
        _add_ttft(rounds, router, figures)
        for key in (
            "pss_bytes_per_stream",
            "pss_bytes_per_stream_late",
            "pss_bytes_per_token",
            "base_rss_mib",
        ):
            values = _column(rounds, router, "memory", key)
            if values:
                figures[key] = _plain(of_differences(values))
        summary["routers"][router] = figures
    for peer in routers:
        if peer in (OURS, "direct"):
            continue
        ratios = {}
        for scenario, key in _MEASURES.items():
            ours, theirs = (_column(rounds, name, scenario, key) for name in (OURS, peer))
            if ours and len(ours) == len(theirs):
                ratios[key] = _plain(of_ratios(ours, theirs))
        summary["ratios"][peer] = ratios
    return summary


def _add_ttft(rounds: Rounds, router: str, figures: dict[str, Any]) -> None:
    mine = _column(rounds, router, "ttft", "ttft_p50_ms")
    direct = _column(rounds, "direct", "ttft", "ttft_p50_ms")
    if mine:
        figures["ttft_p50_ms"] = _plain(of_differences(mine))
    if mine and router != "direct" and len(mine) == len(direct):
        figures["ttft_added_p50_ms"] = _plain(
            of_differences([a - b for a, b in zip(mine, direct, strict=True)])
        )


def _column(rounds: Rounds, router: str, scenario: str, key: str) -> list[float]:
    return [one[router][scenario][key] for one in rounds if scenario in one.get(router, {})]


def _plain(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


_COLUMNS = (
    ("requests_per_cpu_second", "requests / CPU s"),
    ("requests_light_per_cpu_second", "the same, not saturated"),
    ("chunks_per_cpu_second", "chunks / CPU s"),
    ("ttft_added_p50_ms", "TTFT p50 added, ms"),
    ("pss_bytes_per_stream", "bytes a stream"),
    ("pss_bytes_per_token", "bytes a token"),
)
_DIGITS = {"ttft_added_p50_ms": 3, "pss_bytes_per_token": 1}


def table(summary: dict[str, Any], title: str) -> str:
    """Two Markdown tables of what was measured: each router's figures, and ours against each peer."""
    routers = summary["routers"]
    columns = [(key, name) for key, name in _COLUMNS if any(key in figures for figures in routers.values())]
    names = [name for _, name in columns]
    lines = [title, "", _row(["router", *names]), _row(["---"] + ["---:"] * len(names))]
    for router, figures in routers.items():
        cells = {key: _cell(figures.get(key), _DIGITS.get(key, 0)) for key, _ in columns}
        if router == "direct" and "ttft_added_p50_ms" in cells:
            cells["ttft_added_p50_ms"] = f"({_cell(figures.get('ttft_p50_ms'), 3)} in all)"
        lines.append(_row([f"**{router}**" if router == OURS else router, *cells.values()]))
    if any(summary["ratios"].values()):
        compared = [
            (scenario, key)
            for scenario, key in _MEASURES.items()
            if any(key in ratios for ratios in summary["ratios"].values())
        ]
        lines += ["", _row([f"{OURS} against", *(scenario for scenario, _ in compared)])]
        lines.append(_row(["---"] + ["---:"] * len(compared)))
        for peer, ratios in summary["ratios"].items():
            lines.append(_row([peer, *(_cell(ratios.get(key), 2, "×") for _, key in compared)]))
    lines += _saturation(routers)
    share = summary["others_cpu_share"]
    if share > _BUSY:
        lines += [
            "",
            f"**Other programs used {share:.0%} of this machine meanwhile: these figures say little.**",
        ]
    return "\n".join([*lines, "", "Means with 95% intervals of paired rounds. " + LEFT_OUT])


def _saturation(routers: dict[str, Any]) -> list[str]:
    """How much of its core each router used in requests, and whom that leaves short of its limit."""
    shares = {
        name: figures["requests_cpu_share"]["mean"]
        for name, figures in routers.items()
        if "requests_cpu_share" in figures
    }
    if not shares:
        return []
    lines = [
        "",
        "Router busy in requests: " + ", ".join(f"{n} {share:.0%}" for n, share in shares.items()) + ".",
    ]
    if idle := [name for name, share in shares.items() if share < _SATURATED]:
        lines += [
            "",
            f"**Not saturated in requests, under {_SATURATED:.0%} of its core: {', '.join(idle)}.**",
        ]
    return lines


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: dict[str, float] | None, digits: int, unit: str = "") -> str:
    if value is None:
        return "–"
    low, high = value["low"], value["high"]
    spread = "" if math.isnan(low) else f" [{low:,.{digits}f}, {high:,.{digits}f}]"
    return f"{value['mean']:,.{digits}f}{unit}{spread}"


def brief(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """One round in one line, for each router what was measured."""
    parts = []
    for name, loads in figures.items():
        said = []
        if load := loads.get("requests"):
            said.append(
                f"{load['requests_per_cpu_second']:,.0f} requests/CPU s (router busy {load['cpu_share']:.0%})"
            )
        if load := loads.get("requests_light"):
            said.append(f"{load['requests_light_per_cpu_second']:,.0f} light")
        if load := loads.get("chunks"):
            said.append(f"{load['chunks_per_cpu_second']:,.0f} chunks/CPU s")
        if load := loads.get("ttft"):
            said.append(f"TTFT {load['ttft_p50_ms']:.3f} ms")
        if load := loads.get("memory"):
            said.append(f"{load['pss_bytes_per_stream']:,.0f} bytes a stream")
        parts.append(f"{name} {', '.join(said)}")
    return "; ".join(parts)
