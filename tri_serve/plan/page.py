"""A plan as one HTML page with pictures: no scripts, nothing loaded from elsewhere, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tri_serve.plan.pictures import memory_picture, speed_picture
from tri_serve.plan.result import DemandPlan, Finding, MemoryPlan, Plan, SpeedPlan
from tri_serve.plan.words import (
    device_words,
    engine_words,
    engines_words,
    fleet_words,
    gib,
    options_of,
    parameters_words,
    rate_of_each,
    seconds,
    slo_words,
    span,
    unknown_speed_words,
    weights_words,
)

_STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #60646c; --line: #d9dce1; --ground: #ffffff;
  --card: #f6f7f9; --weights: #3e63dd; --working: #ab4aba; --driver: #b98900;
  --cache: #2b9a66; --rest: #dfe2e7; --bad: #ce2c31; --good: #218358; --warn: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --text: #edeef0; --soft: #b0b4ba; --line: #43484e;
  --ground: #111113; --card: #1b1d20; --weights: #7d9bff; --working: #d08add;
  --driver: #e2b93b; --cache: #3dd68c; --rest: #33373c; --bad: #ff9592; --good: #3dd68c; --warn: #f5c451; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 56rem; color: var(--text);
  background: var(--ground); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; }
p { margin: .4rem 0; } .soft, figcaption { color: var(--soft); font-size: .9rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
figure { margin: 0; overflow-x: auto; } svg { width: 100%; min-width: 34rem; height: auto; display: block; }
svg text { fill: var(--text); font: 13px system-ui, sans-serif; } svg .soft { fill: var(--soft); font-size: 12px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } td.n, th.n { text-align: right; white-space: nowrap; }
th { font-weight: 600; font-size: .9rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .8rem;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem; }
code { font-family: ui-monospace, monospace; font-size: .9em; overflow-wrap: anywhere; }
"""


def page(
    plan: Plan,
    *,
    title: str,
    start: str | None = None,
    terms: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> str:
    """The whole page; ``title`` names what was planned.

    ``start`` is the command of ours that starts it, ``terms`` on which the model may be used, ``notes`` what else
    is said beside the plan.
    """
    parts = [_head(plan, title, notes), _findings(plan.findings)]
    if plan.memory is not None and (not plan.refused or not plan.memory.fits):
        parts.append(_memory(plan, plan.memory))
    if plan.speed is not None:
        parts.append(_speed(plan.speed))
    elif plan.memory is not None and not plan.refused:
        parts.append(f"<h2>Speed</h2>\n<p>{escape(unknown_speed_words(plan))}</p>")
    if plan.slo is not None:
        parts.append(f"<h2>SLO</h2>\n<p>{escape(slo_words(plan.slo))}.</p>")
    if plan.demand is not None:
        parts.append(_demand(plan.demand))
    if plan.changes:
        rows = [
            [_code(options_of(change.keys, change.gpu, change.preset)), escape(change.effect)]
            for change in plan.changes
        ]
        parts.append(f"<h2>What to change</h2>\n{_table(['with', 'comes'], rows)}")
    if start is not None:
        parts.append(f"<h2>Command</h2>\n<pre><code>{escape(start)}</code></pre>")
    if plan.command is not None:
        heading = "Command" if start is None else "Or the engine alone"
        parts.append(f"<h2>{heading}</h2>\n<pre><code>{escape(plan.command)}</code></pre>")
    if terms:
        parts.append("<h2>Terms</h2>\n" + "\n".join(f"<p>{escape(words)}</p>" for words in terms))
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def _head(plan: Plan, title: str, notes: Sequence[str]) -> str:
    where = escape(device_words(plan))
    if plan.refused:
        verdict = f'<span class="bad">Does not work</span> on {where}'
    elif plan.memory is None:
        verdict = f'<span class="good">Works</span> on {where}'
    elif not plan.memory.fits:
        verdict = f"May fit on {where}: that is not worked out here"
    else:
        verdict = f'<span class="good">Fits</span> on {where}: {escape(fleet_words(plan))}'
    model = plan.model
    quantization = "" if model.quantization == "none" else f"{model.quantization}; "
    facts = (
        f"{parameters_words(model.parameters)} in {model.layers} layers; {quantization}"
        f"{weights_words(plan)}; {model.origin}"
    )
    lines = [f"<h1>{escape(title)}</h1>", f"<p><strong>{verdict}</strong></p>"]
    lines += [
        f'<p class="soft">{escape(words)}</p>'
        for words in (facts, *model.remarks, engine_words(plan), *notes)
    ]
    return "\n".join(lines)


def _findings(findings: tuple[Finding, ...]) -> str:
    if not findings:
        return ""
    classes = {"refusal": "bad", "warning": "warn", "note": "soft"}
    words = {"refusal": "refused", "warning": "warning", "note": "note"}
    rows = []
    for finding in findings:
        instead = f"<br>Works: {_code(options_of(finding.change))}" if finding.change else ""
        advice = f"<br>{escape(finding.advice)}" if finding.advice else ""
        rows.append(
            [
                f'<span class="{classes[finding.severity]}">{words[finding.severity]}</span>',
                f'{escape(finding.message)}{instead}{advice}<br><span class="soft">{escape(finding.rule)}; '
                f"{escape(finding.source)}</span>",
            ]
        )
    return f"<h2>What the rules say</h2>\n{_table(['', ''], rows)}"


def _memory(plan: Plan, memory: MemoryPlan) -> str:
    each = " of each GPU" if plan.device.count > 1 else ""
    rows = [
        [
            escape(term.name),
            gib(term.nbytes),
            f'{escape(term.formula)}<br><span class="soft">{escape(term.source)}</span>',
        ]
        for term in (*memory.terms, *memory.outside)
    ]
    cache = (
        f"The KV cache holds {memory.kv_tokens:,} tokens in {memory.kv_dtype}, "
        f"{memory.kv_bytes_per_token:,} bytes each: {memory.full_length_sequences:.2f} times "
        f"{memory.max_model_len:,} tokens."
    )
    if memory.kv_bytes < 0:
        cache = f"{gib(-memory.kv_bytes)} are missing before any KV cache."
    return "\n".join(
        [
            f"<h2>Memory{each}</h2>",
            f"<figure>{memory_picture(memory)}",
            f"<figcaption>{gib(memory.total)}, of which the engine takes {gib(memory.requested)}. {cache}"
            "</figcaption></figure>",
            _table(["part", "size", "how it is computed"], rows, numbers={1}),
        ]
    )


def _speed(speed: SpeedPlan) -> str:
    rows = [
        [
            f"{point.batch:,}",
            f"{point.context:,}",
            span(rate_of_each(point)),
            span(point.rate),
            seconds(point.tpot),
            point.bound,
        ]
        for point in speed.decode
        if point.fits
    ]
    firsts = [[f"{point.tokens:,}", seconds(point.ttft), span(point.rate)] for point in speed.prefill]
    heads = ["users", "tokens each", "tokens/s for each", "all together", "between tokens", "waits for"]
    parts = [
        "<h2>Speed</h2>",
        f"<p>A prediction, not a measurement: {escape(speed.evidence_detail)}.</p>",
        f"<figure>{speed_picture(speed)}<figcaption>Tokens a second for each user, by users at once. The band is "
        "where it may lie, the line what is likely.</figcaption></figure>",
        _table(heads, rows, numbers={0, 1, 2, 3, 4}),
    ]
    if firsts:
        heads = ["tokens of the prompt", "first token after", "prompt tokens/s"]
        parts += [
            "<h2>First token of a user alone</h2>",
            _table(heads, firsts, numbers={0, 1, 2}),
        ]
    return "\n".join(parts)


def _demand(demand: DemandPlan) -> str:
    rows = [
        ["requests a second", f"{demand.request_rate:g}"],
        ["tokens of a request", f"{demand.input_len:,} in, {demand.output_len:,} out"],
        ["engines", escape(engines_words(demand))],
        ["what sets it", escape(demand.limited_by)],
    ]
    if demand.price is not None:
        rows.append(["price of one GPU for an hour", f"{demand.price:g}"])
    for words, cost in (
        ("cost of an hour", demand.cost_per_hour),
        ("cost of a million output tokens", demand.cost_per_million_output_tokens),
        ("cost of a million tokens, prompts too", demand.cost_per_million_tokens),
    ):
        if cost is not None:
            rows.append([words, span(cost)])
    return f"<h2>Load</h2>\n{_table(['', ''], rows)}"


def _table(heads: list[str], rows: list[list[str]], *, numbers: set[int] | None = None) -> str:
    """Cells are HTML already; ``numbers`` are the columns that stand to the right."""

    def cell(tag: str, index: int, text: str) -> str:
        kind = ' class="n"' if index in (numbers or set()) else ""
        return f"<{tag}{kind}>{text}</{tag}>"

    head = "".join(cell("th", index, escape(text)) for index, text in enumerate(heads))
    body = "\n".join(
        f"<tr>{''.join(cell('td', index, text) for index, text in enumerate(row))}</tr>" for row in rows
    )
    top = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return f'<div class="scroll"><table>{top}<tbody>\n{body}\n</tbody></table></div>'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
