"""From raw rounds to a table that can be read, in Markdown, which a terminal shows as well."""

from __future__ import annotations

import math
import statistics
from typing import Any

from .intervals import Interval, of_differences, of_ratios

OURS = "tri-serve"
LEFT_OUT = (
    "Not in the comparison: TLS, HTTP/2, more than one worker or thread, routing policies (all spread evenly; "
    "vllm-router and tri-serve parse each request, HAProxy does not), saturation, and the kernel's socket memory. "
    "Client and engines share the other core; a router's own CPU time is what counts, so that they do not."
)

# Kernel threads and timer ticks stay below this.
_BUSY = 0.05

Rounds = list[dict[str, dict[str, dict[str, float]]]]
"""Round → router → scenario → figures."""

_MEASURES = (
    ("requests", "requests_per_cpu_second", "requests / CPU s", 0),
    ("chunks", "chunks_per_cpu_second", "chunks / CPU s", 0),
)


def summarise(rounds: Rounds) -> dict[str, Any]:
    """Means and intervals by router, and paired ratios of ours to each peer."""
    routers = list(dict.fromkeys(name for one in rounds for name in one))
    shares = [
        figures["others_cpu_share"] for one in rounds for loads in one.values() for figures in loads.values()
    ]
    summary: dict[str, Any] = {"routers": {}, "ratios": {}, "others_cpu_share": statistics.fmean(shares)}
    for router in routers:
        figures: dict[str, Any] = {}
        for scenario, key, _, _ in _MEASURES:
            values = _column(rounds, router, scenario, key)
            if values and not math.isnan(values[0]):
                figures[key] = _plain(of_differences(values))
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
        for scenario, key, _, _ in _MEASURES:
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


def table(summary: dict[str, Any], title: str) -> str:
    """Two Markdown tables: each router's figures, and ours against each peer."""
    head = [
        "router",
        "requests / CPU s",
        "chunks / CPU s",
        "TTFT p50 added, ms",
        "bytes a stream",
        "bytes a token",
    ]
    lines = [title, "", _row(head), _row(["---"] + ["---:"] * (len(head) - 1))]
    for router, figures in summary["routers"].items():
        added = _cell(figures.get("ttft_added_p50_ms"), 3)
        if router == "direct":
            added = f"({_cell(figures.get('ttft_p50_ms'), 3)} in all)"
        cells = [
            f"**{router}**" if router == OURS else router,
            _cell(figures.get("requests_per_cpu_second"), 0),
            _cell(figures.get("chunks_per_cpu_second"), 0),
            added,
            _cell(figures.get("pss_bytes_per_stream"), 0),
            _cell(figures.get("pss_bytes_per_token"), 1),
        ]
        lines.append(_row(cells))
    if any(summary["ratios"].values()):
        lines += ["", _row([f"{OURS} against", "requests", "chunks"]), _row(["---", "---:", "---:"])]
        for peer, ratios in summary["ratios"].items():
            cells = [_cell(ratios.get(key), 2, "×") for _, key, _, _ in _MEASURES]
            lines.append(_row([peer, *cells]))
    share = summary["others_cpu_share"]
    if share > _BUSY:
        lines += [
            "",
            f"**Other programs used {share:.0%} of this machine meanwhile: these figures say little.**",
        ]
    return "\n".join([*lines, "", "Means with 95% intervals of paired rounds. " + LEFT_OUT])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: dict[str, float] | None, digits: int, unit: str = "") -> str:
    if value is None:
        return "–"
    low, high = value["low"], value["high"]
    spread = "" if math.isnan(low) else f" [{low:,.{digits}f}, {high:,.{digits}f}]"
    return f"{value['mean']:,.{digits}f}{unit}{spread}"


def brief(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """One round in one line: requests and chunks per CPU second, TTFT, bytes a stream."""
    parts = []
    for name, by_scenario in figures.items():
        values = [
            f"{by_scenario[scenario][key]:,.{digits}f}"
            for scenario, key, digits in (
                ("requests", "requests_per_cpu_second", 0),
                ("chunks", "chunks_per_cpu_second", 0),
                ("ttft", "ttft_p50_ms", 3),
                ("memory", "pss_bytes_per_stream", 0),
            )
            if scenario in by_scenario
        ]
        parts.append(f"{name} {' / '.join(values)}")
    return "; ".join(parts)
