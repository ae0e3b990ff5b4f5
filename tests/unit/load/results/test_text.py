"""The report in 80 columns."""

from __future__ import annotations

import pytest

from tri_serve.load.results.text import report
from tri_serve.spec.slo import Slo


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"failing": 0.3, "slower": 40.0, "complete": False},
        {"failing": 1.0},
        {"seconds": 5.0, "rate": 0.2},
    ],
    ids=["good", "bad", "nothing answered", "hardly any"],
)
def test_no_line_is_wider_than_80_columns(make_result, made):
    assert max(len(line) for line in report(make_result(**made)).splitlines()) <= 80


def test_the_verdict_comes_before_the_figures(make_result):
    text = report(make_result(failing=0.3))
    assert text.index("INVALID: these figures are not to be believed") < text.index("ttft_sched")
    assert "503 overloaded" in text


def test_both_families_are_there_under_their_own_names(make_result):
    result = make_result()
    lines = {line.split()[0]: line.split() for line in report(result).splitlines() if line.strip()}
    assert float(lines["ttft"][2]) == pytest.approx(result.figures.latencies["ttft"].p50, abs=0.1)
    assert float(lines["ttft_vllm"][2]) == pytest.approx(result.figures.vllm.ttft.p50, abs=0.1)
    assert float(lines["e2el_vllm"][-1]) == pytest.approx(result.figures.vllm.e2el.max, abs=0.1)


@pytest.mark.parametrize(("slo", "said"), [(Slo(ttft=5), "MET"), (Slo(ttft=0.01), "MISSED")])
def test_the_promise_is_named_with_what_kept_it(make_result, slo, said):
    (line,) = [line for line in report(make_result(slo=slo)).splitlines() if line.startswith("SLO ")]
    assert str(slo) in line
    assert said in line


def test_a_partial_report_is_marked_so(make_result):
    assert "PARTIAL: stopped before its end: Ctrl-C" in report(make_result(complete=False))
    assert "PARTIAL" not in report(make_result())


def test_what_was_left_out_of_the_workload_is_said(make_result):
    assert "3 items of the file were empty and left out" in report(make_result())
