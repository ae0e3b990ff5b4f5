"""How a run is started: its command line, its folder, its processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tri_serve.errors import UsageError
from tri_serve.load.run import LoadRun, new_folder, processes_for
from tri_serve.load.scenario.models import Arrivals, ClosedLoop, Poisson, Scenario, Spike, Workload, Written

PART = '{"kind": "written", "name": "chat", "input": {"fixed": 8}, "output": {"fixed": %d}}'


def scenario(arrivals: Arrivals, output: int = 128) -> Scenario:
    part = Written.model_validate_json(PART % output)
    return Scenario(title="x", arrivals=arrivals, workload=Workload(parts=(part,)))


def test_the_command_line_names_everything_and_holds_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRI_SERVE_API_KEY", "sk-secret")
    run = LoadRun(
        url="http://h:1", scenario="smoke", folder=tmp_path, model="m", sets=("window=5s", "seed=2"),
        slo="ttft=1s", processes=3, tokenizer=Path("/t.json"), scrape=("gateway=http://h:2/metrics",),
        save_vllm_json=True, insecure=True,
    )  # fmt: skip
    words = run.argv()
    assert words[1:6] == ["-m", "tri_serve.load.swarm", "--headless", "--only-summary", "--host"]
    for expected in ("--set=window=5s", "--set=seed=2", "--slo=ttft=1s", "--tokenizer=/t.json", "--insecure"):
        assert expected in words
    assert words[words.index("--processes") + 1] == "3"
    assert "--scrape=gateway=http://h:2/metrics" in words
    assert not any("sk-secret" in word for word in words)


def test_one_process_needs_no_port(tmp_path: Path) -> None:
    words = LoadRun(url="http://h:1", scenario="smoke", folder=tmp_path).argv()
    assert "--processes" not in words
    assert "--master-port" not in words


def test_folders_are_new_and_a_result_is_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first, second = new_folder("./my load.yaml", None), new_folder("./my load.yaml", None)
    assert first != second
    assert first.parent == tmp_path / "tri-serve" / "loads"
    assert "my-load" in first.name
    (first / "result.json").touch()
    with pytest.raises(UsageError, match="a result already"):
        new_folder("x", first)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--output-dir .*file"):
        new_folder("x", tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("arrivals", "output", "cores", "expected"),
    [
        (Poisson(rate=1), 128, 16, 1),
        (Poisson(rate=300), 1, 16, 2),
        (Poisson(rate=100), 512, 16, 6),  # 51,200 events a second
        (Poisson(rate=100), 512, 4, 3),
        (Poisson(rate=100), 512, 1, 1),
        (Spike(rate=1, spike_rate=300, at=1.0, seconds=1.0), 1, 16, 2),
        (ClosedLoop(users=16), 128, 16, 1),
        (ClosedLoop(users=1_000), 128, 16, 5),  # 50,000 events a second
    ],
)
def test_there_are_processes_enough_and_no_more_than_cores(
    arrivals: Arrivals, output: int, cores: int, expected: int
) -> None:
    assert processes_for(scenario(arrivals, output), cores) == expected
