"""The report in 80 columns."""

from __future__ import annotations

import pytest

from tri_serve.load.results.text import report
from tri_serve.load.verdict import judge_run
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


@pytest.mark.parametrize(("tokens", "said"), [(1.0, False), (1.04, False), (1.6, True)])
def test_events_that_hold_several_tokens_are_told(make_result, tokens, said):
    result = make_result()
    figures = result.figures.model_copy(update={"tokens_an_event": tokens})
    text = report(result.model_copy(update={"figures": figures}))
    assert ("itl is of events" in text) is said


def test_a_partial_report_is_marked_so(make_result):
    assert "PARTIAL: stopped before its end: Ctrl-C" in report(make_result(complete=False))
    assert "PARTIAL" not in report(make_result())


def test_what_was_left_out_of_the_workload_is_said(make_result):
    assert "3 items of the file were empty and left out" in report(make_result())


def test_a_client_that_had_no_cpu_is_told_apart_from_one_that_was_busy(make_result):
    def said(wait, lag):
        result = make_result(seconds=30.0)
        evidence = result.evidence.model_copy(update={"cpu_wait_share": wait, "loop_lag_p99_ms": lag})
        verdict = judge_run(evidence, result.figures, Slo())
        return "had no CPU" in report(result.model_copy(update={"evidence": evidence, "verdict": verdict}))

    assert said(0.3, 9.0)
    assert not said(0.3, 0.1)
    assert not said(0.01, 9.0)
    assert not said(None, 9.0)


def test_advice_that_several_reasons_share_is_given_once(make_result):
    result = make_result(seconds=30.0)
    evidence = result.evidence.model_copy(update={"loop_lag_p99_ms": 9.0, "dispatch_lag_p99_ms": 30.0})
    verdict = judge_run(evidence, result.figures, Slo())
    assert len([reason for reason in verdict.reasons if reason.cause == "client"]) >= 2
    assert report(result.model_copy(update={"verdict": verdict})).count("--processes") == 1
