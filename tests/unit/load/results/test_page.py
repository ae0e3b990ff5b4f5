"""The page: one file, nothing fetched, nothing that a name could smuggle in."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tri_serve.load.results.charts import Chart, Series, draw, number, stack
from tri_serve.load.results.page import page

EVIL = '<script>alert(1)</script>"&'


class Tags(HTMLParser):
    """Every tag with its attributes; unclosed ones are told."""

    VOID = ("meta", "br", "rect", "line", "circle", "polyline")

    def __init__(self, text):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize(
    "made", [{}, {"failing": 0.2, "complete": False}, {"failing": 1.0}, {"seconds": 2.0, "rate": 0.4}]
)
def test_a_page_is_well_formed_and_fetches_nothing(make_result, made):
    text = page(make_result(**made))
    tags = Tags(text)
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(tag for tag, _ in tags.seen)
    assert not any({"src", "href", "onload", "style"} & set(attributes) for _, attributes in tags.seen)
    assert not re.search(r"url\(|@import", text)
    assert "nan" not in text


def test_the_verdict_is_on_top_and_the_scenario_verbatim(make_result):
    text = page(make_result(failing=0.3))
    assert text.index("<strong>INVALID</strong>") < text.index("<figure")
    assert "<pre>title: made up\n</pre>" in text


def test_names_are_shown_and_not_obeyed(make_result):
    result = make_result(failing=0.2)
    figures = result.figures.model_copy(update={"failure_details": {EVIL: 3}})
    groups = {f"{EVIL}{name}": group for name, group in figures.groups.items()}
    hostile = result.model_copy(
        update={
            "run": EVIL,
            "figures": figures.model_copy(update={"groups": groups}),
            "scenario": result.scenario.model_copy(
                update={"name": EVIL, "text": EVIL, "overrides": {EVIL: EVIL}}
            ),
            "target": result.target.model_copy(update={"url": EVIL, "model": EVIL}),
            "workload": result.workload.model_copy(update={"remarks": (EVIL,), "tokenizer": EVIL}),
            "server_side": result.server_side.model_copy(update={"remarks": (EVIL,), "missing": (EVIL,)}),
        }
    )
    text = page(hostile, [hostile])
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    Tags(text)


def test_several_runs_are_points_of_throughput_against_latency(make_result):
    others = [make_result(f"at {rate}", rate=rate) for rate in (1, 2)]
    text = page(make_result("at 4"), others)
    for name in ("at 1", "at 2", "at 4"):
        assert f"<title>{name}: " in text


def test_failures_have_a_chart_where_there_are_some(make_result):
    assert "Failed and unsent requests" in page(make_result(failing=0.2))
    assert "Failed and unsent requests" not in page(make_result())


def test_a_line_lies_within_its_axes():
    drawn = draw(
        Chart("t", "n", "x", "y", [Series("s", [(1.0, 5.0), (10.0, 250.0), (1000.0, 1.0)])], log_x=True)
    )
    (path,) = re.findall(r'points="([^"]+)"', drawn)
    points = [tuple(float(value) for value in pair.split(",")) for pair in path.split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert all(52 <= x <= 448 and 10 <= y <= 230 for x, y in points)
    # Decades lie evenly on a logarithmic axis.
    assert (points[2][0] - points[1][0]) == pytest.approx(2 * (points[1][0] - points[0][0]), abs=0.3)


def test_bars_stand_upon_each_other():
    chart = Chart("t", "n", "x", "y", [Series("a", [(0.0, 2.0)]), Series("b", [(0.0, 2.0)])], bars=True)
    bars = re.findall(r'class="bar s1" x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', draw(chart))
    (low, height), (high, _) = [(float(y), float(tall)) for y, tall in bars]
    assert low + height == pytest.approx(230)
    assert high + height == pytest.approx(low)


def test_a_chart_without_points_says_so():
    assert "Nothing was measured" in draw(Chart("t", "n", "x", "y", [Series("s", [])]))
    assert "Nothing was measured" in stack([("a", 0.0)], "ms")


def test_parts_of_a_stack_fill_it():
    widths = re.findall(
        r'width="([\d.]+)" height="10"', stack([("a", 1.0), ("b", 3.0), ("rest", -0.2)], "ms")
    )
    assert [float(width) for width in widths] == [25.0, 75.0, 0.0]


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0"), (0.25, "0.25"), (999.0, "999"), (1500.0, "1.5k"), (2e6, "2M")]
)
def test_ticks_are_short(value, said):
    assert number(value) == said


def test_a_single_point_is_no_curve_of_throughput_against_latency(make_result):
    assert "Throughput against latency" in page(make_result())
    one = make_result(seconds=1.0, rate=3)
    assert len([slot for slot in one.figures.slots if 0 <= slot.at < 1 and slot.ttft_p50 is not None]) == 1
    assert "Throughput against latency" not in page(one)


def test_the_page_says_what_its_promise_and_its_goodput_are_of(make_result):
    part = make_result(complete=False)
    goodput = part.figures.goodput.model_copy(update={"of": part.figures.scheduled - 7})
    text = page(part.model_copy(update={"figures": part.figures.model_copy(update={"goodput": goodput})}))
    assert "in the part that was run</b>" in text
    assert "7 cancelled are left out" in text
    assert "in the part that was run" not in page(make_result())


def test_a_narrow_screen_has_small_tables_of_short_numbers(make_result):
    text = page(make_result(slower=20.0))
    cells = re.findall(r"<td>([\d,.]+)</td>", text)
    assert any(len(cell) >= 5 and "," in cell for cell in cells)
    assert not [cell for cell in cells if "," in cell and "." in cell]
    assert "@media (max-width: 40rem)" in text
