"""How a result's page looks: light and dark by the reader's system, wide and narrow, on screen and on paper.

Series differ in colour and in dashes: colours keep apart for the common kinds of colour blindness
(blue, orange, teal, red of unlike lightness; violet and grey in stacks only), the dashes where there is no colour.
"""

STYLE = """
:root { color-scheme: light dark;
  --page: #ffffff; --panel: #f6f7f9; --ink: #1c2430; --soft: #5a6675; --rule: #d9dee5; --shade: #e9edf2;
  --s1: #1f6fd1; --s2: #c9580c; --s3: #12806f; --s4: #b3202f; --s5: #7a49b8;
  --good: #13713f; --doubt: #8a5a00; --bad: #a8182a; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12161c; --panel: #1a2029; --ink: #e4e8ee; --soft: #9aa6b5; --rule: #323c49; --shade: #222a35;
  --s1: #6aa8f7; --s2: #f2974f; --s3: #45c4ad; --s4: #f2717d; --s5: #b99bf5;
  --good: #5fce8f; --doubt: #e6b450; --bad: #ff8590; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 74rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Noto Sans", "Noto Sans CJK KR", sans-serif; }
h1 { font-size: 1.35rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
p { margin: .3rem 0; }
.soft, .note, .none { color: var(--soft); }
.note { font-size: .8rem; margin: .2rem 0 0; }
.verdict { border-left: .35rem solid var(--mark); background: var(--panel); padding: .7rem 1rem; margin: 1rem 0; }
.verdict.VALID { --mark: var(--good); } .verdict.SUSPECT { --mark: var(--doubt); }
.verdict.INVALID { --mark: var(--bad); }
.verdict strong { color: var(--mark); font-size: 1.15rem; }
.verdict ul { margin: .4rem 0 0; padding-left: 1.2rem; } .verdict li { margin: .3rem 0; }
.tiles { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.tile { background: var(--panel); padding: .6rem .8rem; } .tile b { display: block; font-size: 1.3rem; }
.tile span { color: var(--soft); font-size: .82rem; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0; } figure.chart { background: var(--panel); padding: .7rem .8rem; }
figcaption { font-weight: 600; }
svg { display: block; width: 100%; height: auto; }
svg.key { display: inline-block; width: 22px; height: 10px; margin-right: .35rem; }
svg.stack { height: 1.6rem; margin: .4rem 0; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .2rem 0; padding: 0;
  font-size: .85rem; }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); } .shade { fill: var(--shade); }
.tick, .label { fill: var(--soft); font-size: 12px; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line.s1 { stroke: var(--s1); } .line.s2 { stroke: var(--s2); stroke-dasharray: 7 3; }
.line.s3 { stroke: var(--s3); stroke-dasharray: 2 3; } .line.s4 { stroke: var(--s4); stroke-dasharray: 9 3 2 3; }
.mark.s1, .bar.s1 { fill: var(--s1); } .mark.s2, .bar.s2 { fill: var(--s2); }
.mark.s3, .bar.s3 { fill: var(--s3); } .mark.s4, .bar.s4 { fill: var(--s4); }
.mark.s5, .bar.s5 { fill: var(--s5); } .mark.s6, .bar.s6 { fill: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.text, th.text { text-align: left; white-space: normal; min-width: 18rem; }
th { color: var(--soft); font-weight: 600; }
pre { background: var(--panel); padding: .8rem; overflow-x: auto; font-size: .82rem; }
code { overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--soft); }
@media (max-width: 40rem) {
  body { padding: 1rem .6rem 2rem; }
  table { font-size: .7rem; } th, td { padding: .2rem; }
  th, td:first-child { white-space: normal; } td.text, th.text { min-width: 7rem; overflow-wrap: anywhere; }
}
@media print {
  :root { --page: #fff; --panel: #fff; --ink: #000; --soft: #444; --rule: #bbb; --shade: #eee;
    --s1: #1f6fd1; --s2: #c9580c; --s3: #12806f; --s4: #b3202f; --s5: #7a49b8;
    --good: #13713f; --doubt: #8a5a00; --bad: #a8182a; }
  body { max-width: none; padding: 0; font-size: 11px; } .charts { grid-template-columns: 1fr 1fr; }
  figure, tr, .verdict { break-inside: avoid; } h2 { break-after: avoid; }
}
"""
