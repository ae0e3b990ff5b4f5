"""A result as one HTML file: no script, nothing fetched, the verdict on top."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from tri_serve.load.figures.model import Distribution, Figures
from tri_serve.load.results.charts import number, stack
from tri_serve.load.results.load_words import load_words
from tri_serve.load.results.model import RunResult, ServerSide
from tri_serve.load.results.page_style import STYLE
from tri_serve.load.results.plots import charts
from tri_serve.load.results.text import answered_by, beside, goodput_of, replacements
from tri_serve.load.thresholds import THRESHOLDS
from tri_serve.load.verdict import SLO_SHARE, Level, Verdict, judged_value

_TEXT = ' class="text"'
"""Of a table's cell that holds words and not a number."""
_SAID = {
    Level.VALID: "nothing speaks against these figures",
    Level.SUSPECT: "read these figures with care",
    Level.INVALID: "these figures are not to be believed",
}


def page(result: RunResult, others: Sequence[RunResult] = ()) -> str:
    """The whole document. ``others``: runs to lay beside it, such as those at other rates."""
    title = f"{result.scenario.name} on {result.target.model}"
    body = "\n".join(_body(result, others, title))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # What a name or a scenario smuggles in cannot run or fetch anything.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}: {result.verdict.level.value}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _body(result: RunResult, others: Sequence[RunResult], title: str) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>"
    yield (
        f'<p class="soft">{escape(result.target.url)} · {escape(result.started_at)} · run {escape(result.run)} · '
        f"{result.seconds:.1f} s, {result.figures.window_seconds:.1f} s of them counted</p>"
    )
    load = load_words(result.scenario.resolved)
    if load:
        yield f'<p class="soft">Load: {escape(load)}</p>'
    if not result.complete:
        yield f"<p><b>Partial:</b> stopped before its end. {escape(result.stopped_because)}</p>"
    yield _verdict(result)
    yield from (f"<p>{escape(words)}</p>" for words in beside(result))
    yield _tiles(result.figures)
    if result.server_side is not None and result.server_side.ttft_split:
        yield "<h2>Where the time to the first token goes</h2>"
        yield stack([(part.name, part.mean_ms) for part in result.server_side.ttft_split], "ms")
        sources = "; ".join(f"{part.name}: {part.source}" for part in result.server_side.ttft_split)
        yield f'<p class="note">Means of the window. {escape(sources)}</p>'
    yield "<h2>Charts</h2>"
    yield f'<div class="charts">{"".join(charts(result, others))}</div>'
    yield from _latencies(result.figures)
    yield from _requests(result.figures)
    if result.server_side is not None:
        yield from _server(result.server_side)
    yield from _judged(result)
    yield from _how(result)


def _verdict(result: RunResult) -> str:
    verdict = result.verdict
    reasons = "".join(
        f"<li>{reason.level.value} ({reason.cause}): <b>{escape(reason.said)}</b>."
        f'<br><span class="soft">{escape(reason.why)}. Do: {escape(reason.advice)}.</span></li>'
        for reason in verdict.reasons
    )
    listed = f"<ul>{reasons}</ul>" if reasons else ""
    missing = ", ".join(verdict.not_measured)
    said = f'<p class="note">Not measured: {escape(missing)}</p>' if missing else ""
    return (
        f'<section class="verdict {verdict.level.value}"><strong>{verdict.level.value}</strong> '
        f"{_SAID[verdict.level]}{_slo(verdict, result.figures, complete=result.complete)}{listed}{said}</section>"
    )


def _slo(verdict: Verdict, figures: Figures, *, complete: bool) -> str:
    if not verdict.slo:
        return ""
    word = {True: "met", False: "missed", None: "not judged"}[verdict.slo_met]
    if not complete:
        word += " in the part that was run"
    share = figures.goodput.share
    kept = (
        "" if share is None else f": kept by {share:.1%} of {figures.goodput.of:,}, {SLO_SHARE:.0%} is asked"
    )
    return f"<p>SLO {escape(verdict.slo)} <b>{word}</b>{kept}</p>"


def _tiles(figures: Figures) -> str:
    latencies = figures.latencies
    tiles = [
        (
            "Goodput",
            "–" if figures.goodput.share is None else f"{figures.goodput.share:.1%}",
            goodput_of(figures),
        ),
        ("Output", f"{figures.steady.output_tokens_per_second:,.1f}", "tokens a second, steady"),
        (
            "Requests",
            f"{figures.steady.requests_per_second:,.2f}",
            f"answered a second; {figures.scheduled_rate:.2f} due",
        ),
        (
            "Failed",
            f"{figures.failed:,}",
            f"of {figures.scheduled:,}; {figures.outcomes.get('unsent', 0):,} unsent",
        ),
    ]
    for name, title in (("ttft_sched", "TTFT from due"), ("tpot", "TPOT")):
        if name in latencies:
            it = latencies[name]
            tiles.append((title, f"{number(it.p50)} ms", f"median; p99 {number(it.p99)} ms"))
    cells = "".join(
        f'<div class="tile"><span>{escape(title)}</span><b>{escape(value)}</b><span>{escape(note)}</span></div>'
        for title, value, note in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _latencies(figures: Figures) -> Iterator[str]:
    head = ("ms", "samples", "mean", "p50", "p90", "p95", "p99", "max")
    vllm = figures.vllm
    theirs = {"ttft_vllm": vllm.ttft, "tpot_vllm": vllm.tpot, "itl_vllm": vllm.itl, "e2el_vllm": vllm.e2el}
    yield "<h2>Latencies</h2>"
    yield _table(head, [_cells(name, it) for name, it in figures.latencies.items()])
    yield '<p class="note">ttft, e2e: from when a request was sent; _sched: from when it was due.</p>'
    yield "<h2>Latencies as <code>vllm bench serve</code> defines them</h2>"
    yield _table(head, [_cells(name, it) for name, it in theirs.items()])
    yield (
        f'<p class="note">{vllm.request_throughput:.2f} requests/s, {vllm.output_throughput:,.1f} output tok/s '
        f"over {vllm.duration:.1f} s.</p>"
    )
    groups = [
        _cells(f"{name or '–'}: ttft_sched", group.figures["ttft_sched"])
        for name, group in figures.groups.items()
        if "ttft_sched" in group.figures
    ]
    if len(figures.groups) > 1:
        yield "<h2>Parts of the workload</h2>"
        yield _table(head, groups)


def _cells(name: str, it: Distribution) -> list[str]:
    values = (it.mean, it.p50, it.p90, it.p95, it.p99, it.max)
    return [name, f"{it.count:,}", *(f"{value:,.{2 if value < 1_000 else 0}f}" for value in values)]


def _requests(figures: Figures) -> Iterator[str]:
    yield "<h2>Requests</h2>"
    rows = [[name, f"{count:,}"] for name, count in figures.outcomes.items() if count or name == "ok"]
    yield _table(("outcome", "requests"), rows)
    if len(figures.replicas) > 1:
        yield f"<p>Answered by {escape(answered_by(figures))}.</p>"
    if figures.failure_details:
        rows = [[f"{count:,}", detail] for detail, count in figures.failure_details.items()]
        if figures.details_left_out:
            rows.append([f"{figures.details_left_out:,}", "other reasons"])
        yield _table(("times", "what was wrong"), rows, text=(1,))
    tokens = figures.input_tokens
    if tokens.requests:
        yield (
            f"<p>Input tokens: {tokens.reported:,} counted by the server, {tokens.intended:,} intended; exact in "
            f"{tokens.exact:,} of {tokens.requests:,} requests, at most {tokens.largest_difference:,} off.</p>"
        )
    if figures.with_replacements:
        yield f"<p>{replacements(figures)}.</p>"


def _server(server: ServerSide) -> Iterator[str]:
    yield "<h2>What the servers say of the same window</h2>"
    rows = [
        [
            engine.name,
            _or_dash(engine.requests, "{:,}"),
            _or_dash(engine.output_tokens, "{:,}"),
            _or_dash(engine.ttft_mean_ms, "{:.1f}"),
            _or_dash(engine.queue_mean_ms, "{:.1f}"),
            _or_dash(engine.prefill_mean_ms, "{:.1f}"),
            _or_dash(engine.kv_use_max, "{:.0%}"),
            _or_dash(engine.prefix_hit_rate, "{:.0%}"),
            _or_dash(engine.preemptions, "{:,}"),
        ]
        for engine in server.engines
    ]
    if rows:
        head = (
            "engine",
            "requests",
            "output tok",
            "TTFT ms",
            "queue ms",
            "prefill ms",
            "KV max",
            "prefix hits",
            "preempted",
        )
        yield _table(head, rows)
    if server.client_tokens is not None and server.server_tokens:
        share = (server.client_tokens - server.server_tokens) / server.server_tokens
        yield (
            f"<p>Output tokens: {server.client_tokens:,} by the client, {server.server_tokens:,} by the engines "
            f"({share:+.2%}).</p>"
        )
    notes = [*server.missing, *server.restarts, *server.remarks]
    yield from (f'<p class="note">{escape(note)}</p>' for note in notes)


def _judged(result: RunResult) -> Iterator[str]:
    yield "<h2>What was judged</h2>"
    rows = []
    for threshold in THRESHOLDS:
        found, suspect, invalid = judged_value(threshold, result.evidence, result.figures)
        rows.append([threshold.what, found, suspect, invalid, threshold.why])
    yield _table(("figure", "found", "doubted above", "invalid above", "why"), rows, text=(0, 4))


def _how(result: RunResult) -> Iterator[str]:
    machine = result.machine
    facts: dict[str, str] = {
        "client processes": str(result.processes),
        "machine": ", ".join(
            word
            for word in (
                machine.cpu,
                f"{machine.cores} cores" if machine.cores else "",
                f"{machine.memory_bytes / 2**30:.1f} GiB" if machine.memory_bytes else "",
                machine.kernel,
            )
            if word
        ),
        "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
        "scenario hash": result.scenario.hash,
        "workload hash": result.workload.hash,
        "tokenizer": result.workload.tokenizer,
        "records": ", ".join(result.records),
    } | {f"changed: {key}": value for key, value in result.scenario.overrides.items()}
    yield "<h2>How it was measured</h2>"
    yield _facts(facts)
    yield from (f"<p>{escape(remark)}</p>" for remark in result.workload.remarks)
    yield f"<details><summary>The scenario, verbatim</summary><pre>{escape(result.scenario.text)}</pre></details>"


def _facts(facts: Mapping[str, str]) -> str:
    return _table(("", ""), [[name, value] for name, value in facts.items() if value], text=(1,))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], text: Sequence[int] = ()) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        made = "".join(
            f"<{tag}{' class=' + chr(34) + 'text' + chr(34) if at in text else ''}>{escape(cell)}</{tag}>"
            for at, cell in enumerate(cells)
        )
        return f"<tr>{made}</tr>"

    top = f"<thead>{row('th', head)}</thead>" if any(head) else ""
    body = "".join(row("td", cells) for cells in rows)
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
