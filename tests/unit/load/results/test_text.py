"""The report in 80 columns."""

from __future__ import annotations

import pytest

from tri_serve.load.results.model import TtftPart
from tri_serve.load.results.page import page
from tri_serve.load.results.text import report
from tri_serve.load.scenario.reading import read_scenario
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


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "load: open loop, Poisson arrivals at 30/s; warm-up 2 s, window 10 s; seed 7"),
        (
            ("arrivals={kind: closed, users: 8, stagger: 4s, think: 1s}", "requests=50"),
            "load: closed loop, 8 users, begun over 4 s, pausing 1 s on average; warm-up 2 s, window 10 s, "
            "at most 50 requests; seed 7",
        ),
        (
            ("arrivals={kind: gamma, rate: 2, burstiness: 0.5}", "cool_down=3s", "warm_up=0s"),
            "load: open loop, gamma arrivals (burstiness 0.5) at 2/s; window 10 s, cool-down 3 s; seed 7",
        ),
        (("arrivals={kind: constant, rate: 2.5}",), "load: open loop, evenly spaced arrivals at 2.5/s;"),
        (("arrivals={kind: ramp, to_rate: 9}",), "load: open loop, a ramp from 0/s to 9/s;"),
        (
            ("arrivals={kind: steps, steps: [{rate: 1, seconds: 5s}, {rate: 3, seconds: 2s}]}",),
            "load: open loop, steps of 1/s for 5 s, 3/s for 2 s;",
        ),
        (
            ("arrivals={kind: spike, rate: 2, spike_rate: 9, at: 5s, seconds: 3s}",),
            "load: open loop, Poisson arrivals at 2/s, a spike of 9/s for 3 s from 5 s on;",
        ),
    ],
)
def test_a_report_says_what_load_was_sent(make_result, tmp_path, overrides, said):
    path = tmp_path / "short.yaml"
    path.write_text(
        "title: t\narrivals: {kind: poisson, rate: 30}\nseed: 7\nwarm_up: 2s\nwindow: 10s\nworkload:\n"
        "  parts: [{name: a, kind: written, input: {fixed: 48}, output: {fixed: 8}}]\n"
    )
    resolved = read_scenario(str(path), overrides).scenario.model_dump(mode="json")
    result = make_result(seconds=5.0)
    scenario = result.scenario.model_copy(update={"resolved": resolved})
    text = report(result.model_copy(update={"scenario": scenario}))
    assert said in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_goodput_says_what_it_leaves_out(make_result):
    result = make_result(complete=False)
    assert "% of all that was due" in report(result)
    goodput = result.figures.goodput.model_copy(update={"of": result.figures.scheduled - 7})
    cut = result.model_copy(update={"figures": result.figures.model_copy(update={"goodput": goodput})})
    said = " ".join(report(cut).split())
    assert f"of {goodput.of} of the {result.figures.scheduled} due: 7 cancelled are left out" in said
    assert "of all that was due" not in said


def test_the_promise_of_a_part_of_a_run_is_kept_in_that_part_alone(make_result):
    assert "MET in the part that was run" in report(make_result(complete=False, slo=Slo(ttft=5)))
    assert "in the part" not in report(make_result(slo=Slo(ttft=5)))


def test_nothing_is_minus_nothing(make_result):
    result = make_result()
    split = (*result.server_side.ttft_split, TtftPart(name="rest", mean_ms=-0.04, source="the rest"))
    server = result.server_side.model_copy(update={"ttft_split": split})
    result = result.model_copy(update={"server_side": server})
    assert "rest 0.0 ms" in " ".join(report(result).split())
    assert "rest: 0.0 ms" in page(result)


def test_replicas_are_told_with_what_each_answered(make_result):
    result = make_result()
    assert "by replica  replica-0 120, replica-1 120" in report(result)
    one = result.figures.model_copy(update={"replicas": {"replica-0": 240}})
    assert "by replica" not in report(result.model_copy(update={"figures": one}))
