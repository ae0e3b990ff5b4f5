"""The web UI's tab with what Locust's own tables cannot show.

By Locust's own means: tables that the page's arguments name, filled from what ``/stats/requests`` answers
(https://docs.locust.io/en/stable/extending-locust.html#extending-web-ui).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flask import Response, request

from tri_serve.load.progress import Progress
from tri_serve.load.records import Outcome

if TYPE_CHECKING:
    from tri_serve.load.swarm.host import Host

_KEY = "tokens"
_TITLE = "Tokens and verdict"


def extend(web_ui: Any, host: Host) -> None:
    """Add the tab."""
    # Locust's page sorts every table by its column "name" (webui, Table's defaultSortKey): here that is a number.
    titles = {"name": "#", "figure": "Figure", "value": "Value", "meaning": "Meaning"}
    columns = [{"key": key, "title": title} for key, title in titles.items()]
    web_ui.template_args |= {
        "extended_tabs": [{"title": _TITLE, "key": _KEY}],
        "extended_tables": [{"key": _KEY, "structure": columns}],
    }
    path = f"{host.options.web_base_path or ''}/stats/requests"

    @web_ui.app.after_request  # type: ignore[untyped-decorator]
    def add_rows(response: Response) -> Response:
        if request.path == path and response.is_json and isinstance(response.json, dict):
            numbered = [{"name": number, **row} for number, row in enumerate(rows_of(host), 1)]
            stats = [{"key": _KEY, "data": numbered}]
            response.set_data(json.dumps({**response.json, "extended_stats": stats}))
        return response


def rows_of(host: Host) -> list[dict[str, str]]:
    """The table's lines: while a run goes on its progress, then its verdict too."""
    if host.failure is not None:
        hint = f" ({host.failure.hint})" if host.failure.hint else ""
        return [_row("Error", f"{host.failure}{hint}", "the run could not be done")]
    rows = []
    if host.finished is not None:
        result = host.finished.result
        said = result.verdict.level.value if result.complete else f"partial: {result.stopped_because}"
        rows.append(_row("Verdict", said, "; ".join(reason.said for reason in result.verdict.reasons)))
        rows.append(_row("Result", str(host.finished.path or "not written"), "report.html is beside it"))
    latest = host.leader.latest if host.leader is not None else host.latest
    return rows + (_progress_rows(latest) if latest is not None else [])


def _progress_rows(line: Progress) -> list[dict[str, str]]:
    rows = [
        _row("Stage", line.stage, f"{line.elapsed:.0f} of {line.total:.0f} s"),
        _row("Requests due", f"{line.scheduled:,}", "in the window"),
        _row("Answered", f"{line.completed:,}", "whole, and right by every check"),
        _row("Failed", f"{line.failed:,}", _causes(line)),
        _row("Unsent", f"{line.unsent:,}", "due, but beyond what the client may have open or could send"),
        _row("Open", f"{line.open_requests:,}", "requests without their whole answer"),
        _row("TTFT p50", _ms(line.ttft_p50_ms), "sent to first token"),
        _row("TTFT p99", _ms(line.ttft_p99_ms), ""),
        _row("ITL p99", _ms(line.itl_p99_ms), "token to token"),
        _row("TPOT p50", _ms(line.tpot_p50_ms), "time per output token, averaged over each request"),
        _row("TPOT p99", _ms(line.tpot_p99_ms), ""),
        _row("End to end p50", _ms(line.e2e_p50_ms), "sent to last token"),
        _row("End to end p99", _ms(line.e2e_p99_ms), ""),
    ]
    if line.output_tokens_per_second is not None:
        rows.append(
            _row("Output", f"{line.output_tokens_per_second:,.1f} tok/s", "over the last ten seconds")
        )
    if line.requests_per_second is not None:
        target = f"{line.target_rate:g} a second are meant" if line.target_rate else "closed loop"
        rows.append(_row("Answered a second", f"{line.requests_per_second:,.2f}", target))
    if line.goodput_share is not None:
        rows.append(_row("Goodput", f"{line.goodput_share:.1%}", "kept every promise, of all that was due"))
    rows.append(_row("Dispatch lag p99", _ms(line.dispatch_lag_p99_ms), "how late the client itself was"))
    return rows


def _causes(line: Progress) -> str:
    return ", ".join(
        f"{name} {count}" for name, count in line.outcomes.items() if name != Outcome.UNSENT.value
    )


def _row(name: str, value: str, meaning: str) -> dict[str, str]:
    return {"figure": name, "value": value, "meaning": meaning}


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} ms"
