"""Fetching a checkpoint from a hub over real sockets: whole, interrupted, refused, damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from click.testing import CliRunner

from tri_serve.checkpoint import hub as hub_module
from tri_serve.checkpoint.ahead import look_ahead
from tri_serve.checkpoint.download import Download
from tri_serve.checkpoint.hub import Hub
from tri_serve.checkpoint.inspect import inspect_checkpoint
from tri_serve.checkpoint.pull import Pulled, PullProgress, pull
from tri_serve.checkpoint.resolve import is_pulled, resolve_source
from tri_serve.cli.fleet_check import Times, check
from tri_serve.cli.progress import PlainSteps
from tri_serve.cli.pulling import amount
from tri_serve.errors import CheckpointError, ConnectionFailedError, ResourceError, SpecError
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.release import release_paths
from tri_serve.spec.engine import ModelSpec
from tri_serve.spec.models import Spec

if TYPE_CHECKING:
    from tests.integration.checkpoint.conftest import FakeHub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHUNK = 2**18
"""Bytes that are kept together."""
WEIGHTS = "model.safetensors"


def model(source: str = "owner/name", **other: object) -> ModelSpec:
    return ModelSpec.model_validate({"source": source, "served_name": "m", **other})


def fetch(**other: object) -> Pulled:
    return pull(model(**other), pause=lambda seconds: None)  # type: ignore[arg-type]


def cache() -> Path:
    return Path(os.environ["HF_HOME"]) / "hub" / "models--owner--name"


def partial(hub: FakeHub) -> Path:
    return cache() / "blobs" / f"{hub.sha256(WEIGHTS)}.incomplete"


def test_a_pulled_checkpoint_is_whole_and_found_under_its_name(hub: FakeHub, tmp_path: Path) -> None:
    assert not is_pulled(model(), tmp_path)
    pulled = fetch()
    assert is_pulled(model(), tmp_path)
    assert resolve_source(model(), tmp_path) == pulled.path
    assert inspect_checkpoint(pulled.path).tensor_count > 30
    assert (pulled.path / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert pulled.fetched == pulled.total == sum(f.stat().st_size for f in pulled.path.iterdir())


def test_pickles_code_and_second_copies_stay_where_they_are(hub: FakeHub) -> None:
    pulled = fetch()
    assert set(pulled.left_out) == {
        "README.md", "pytorch_model.bin", "modeling_own.py", "original/consolidated.00.safetensors",
    }  # fmt: skip
    assert {file.name for file in pulled.path.iterdir()}.isdisjoint(pulled.left_out)


def test_code_is_fetched_only_for_whoever_trusts_it(hub: FakeHub) -> None:
    assert (fetch(trust_remote_code=True).path / "modeling_own.py").exists()


def test_the_hubs_own_client_finds_what_was_pulled(hub: FakeHub) -> None:
    pulled = fetch()
    said = _with_the_hubs_client("snapshot_download('owner/name', local_files_only=True)")
    assert Path(said) == pulled.path


def test_what_the_hubs_own_client_fetched_is_not_fetched_again(hub: FakeHub) -> None:
    _with_the_hubs_client("snapshot_download('owner/name', ignore_patterns=['*.bin'])")
    assert (cache() / "snapshots" / COMMIT / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert fetch().fetched == 0


def test_a_connection_that_is_cut_goes_on_where_it_was(hub: FakeHub) -> None:
    hub.cut_after = [4 * CHUNK, 2 * CHUNK]
    pulled = fetch()
    assert hub.ranges_asked() == [None, f"bytes={4 * CHUNK}-", f"bytes={6 * CHUNK}-"]
    assert pulled.fetched == pulled.total
    assert (pulled.path / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_later_pull_goes_on_where_one_that_failed_stopped(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_after = [8 * CHUNK, 0, 0, 0, 0, 0, 0]
    with pytest.raises(ConnectionFailedError, match="5 times in a row"):
        fetch()
    assert partial(hub).stat().st_size == 8 * CHUNK
    assert not is_pulled(model(), tmp_path)
    hub.cut_after = []
    hub.asked.clear()
    pulled = fetch()
    assert hub.ranges_asked() == [f"bytes={8 * CHUNK}-"]
    assert pulled.fetched == len(hub.files[WEIGHTS]) - 8 * CHUNK
    assert not partial(hub).exists()


def test_a_server_that_falls_silent_is_asked_again_from_there(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_SILENCE_SECONDS", 0.3)
    hub.stall_after = [4 * CHUNK]
    assert (fetch().path / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert hub.ranges_asked() == [None, f"bytes={4 * CHUNK}-"]


def test_a_disk_that_becomes_full_is_said_with_what_to_do(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Download, "_fetch", full)
    with pytest.raises(
        ResourceError, match=r"could not be written to .*: No space left on device"
    ) as refused:
        fetch()
    assert refused.value.hint == "free some space and run it again: it goes on where it stopped"


def test_https_where_there_is_none_is_no_matter_of_certificates(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"https://127.0.0.1:{hub.port}")
    with pytest.raises(ConnectionFailedError, match="no TLS connection"):
        fetch()


def test_a_certificate_that_cannot_be_verified_says_how_to_trust_it() -> None:
    error = requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate in chain")
    said = hub_module.explain(error, "https://hub.example")
    assert said.message == "the certificate of https://hub.example could not be verified"
    assert "REQUESTS_CA_BUNDLE" in str(said.hint)


def test_a_server_without_ranges_starts_over_and_the_file_is_right(hub: FakeHub) -> None:
    hub.cut_after, hub.ranges = [4 * CHUNK], False
    assert (fetch().path / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_wrong_checksum_is_found_and_nothing_of_it_is_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.wrong_byte = True
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors was fetched in full, and its checksum is wrong"
    ):
        fetch()
    assert not partial(hub).exists()
    assert not is_pulled(model(), tmp_path)


def test_ctrl_c_keeps_what_was_fetched(hub: FakeHub) -> None:
    calls: list[PullProgress] = []

    def interrupt(progress: PullProgress) -> None:
        calls.append(progress)
        if progress.done > 500_000:
            raise KeyboardInterrupt

    hub.cut_after = [2 * CHUNK] * 20
    with pytest.raises(KeyboardInterrupt):
        pull(model(), report=interrupt, pause=lambda seconds: time.sleep(0.05))
    hub.cut_after = []
    assert fetch().fetched < sum(len(content) for content in hub.files.values()) - 500_000


def test_progress_reaches_the_total(hub: FakeHub) -> None:
    seen: list[PullProgress] = []
    pulled = pull(model(), report=seen.append)
    assert (seen[0].done, seen[0].files_done) == (0, 0)
    assert (seen[-1].done, seen[-1].files_done) == (pulled.total, seen[-1].files)


def test_a_busy_hub_is_asked_again(hub: FakeHub) -> None:
    hub.busy = 3
    assert fetch().fetched > 0


def test_a_hub_that_stays_busy_is_given_up(hub: FakeHub) -> None:
    hub.busy = 1000
    with pytest.raises(ConnectionFailedError, match="answered 503") as caught:
        fetch()
    assert caught.value.hint == "try again later; what was fetched is kept"


def test_a_gated_repository_says_where_to_accept_its_terms(hub: FakeHub) -> None:
    hub.gated = True
    with pytest.raises(CheckpointError, match="owner/name is gated") as caught:
        fetch()
    assert caught.value.hint == (
        f"accept the terms at {hub.endpoint}/owner/name, then set HF_TOKEN to a token of that account"
    )


def test_a_token_without_access_is_named_by_its_origin_alone(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated = True
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(CheckpointError, match="is gated") as caught:
        fetch()
    assert caught.value.hint is not None
    assert "with the account of the token in HF_TOKEN" in caught.value.hint
    assert "hf_other" not in caught.value.message + caught.value.hint


def test_the_token_goes_to_the_hub_and_to_no_other_host(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated = True
    file = Path(os.environ["HF_HOME"]) / "token"
    file.parent.mkdir()
    file.write_text("hf_good\n")
    fetch()
    assert any(path.startswith("/owner/name/resolve/") for path in hub.authorised)
    assert not any(path.startswith("/cdn/") for path in hub.authorised)


@pytest.mark.parametrize(
    "token", ["hf_se\ncret", "hf_se cret", "hf_secr\u00e9t", "\ud1a0\ud070secret", "hf_secret" * 1000]
)
@pytest.mark.parametrize("in_file", [False, True])
def test_what_can_be_no_token_is_refused_and_not_shown(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str, in_file: bool
) -> None:
    origin = Path(os.environ["HF_HOME"]) / "token"
    if in_file:
        origin.parent.mkdir()
        origin.write_text(token)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(CheckpointError, match="holds no token") as caught:
        fetch()
    said = "".join(traceback.format_exception(caught.value)) + str(caught.value.hint)
    assert caught.value.message.startswith(f"{origin} " if in_file else "HF_TOKEN ")
    assert not [part for part in (token, "hf_se", "cret") if part in said.replace("secrets", "")]
    assert hub.asked == []


def test_a_proxy_that_forbids_it_is_not_taken_for_the_owner(hub: FakeHub) -> None:
    hub.forbidding = {}
    with pytest.raises(ConnectionFailedError, match=r"answered 403 \(Forbidden\) for owner/name$") as caught:
        fetch()
    assert "a proxy may forbid it" in str(caught.value.hint)
    hub.forbidding = {"X-Error-Message": "this token may not read models"}
    with pytest.raises(ConnectionFailedError, match=r"answered 403 \(this token may not read models\)"):
        fetch()


SOMETHING = {"size": 2, "blobId": "a" * 40}


@pytest.mark.parametrize(
    "sibling",
    [
        "x",
        SOMETHING,
        SOMETHING | {"rfilename": 7},
        SOMETHING | {"rfilename": "model.safetensors", "size": -1},
        SOMETHING | {"rfilename": "model.safetensors", "size": 2**80},
        SOMETHING | {"rfilename": "model.safetensors", "size": 1e999},
        SOMETHING | {"rfilename": "model.safetensors", "lfs": "x"},
    ],
)
def test_a_list_that_describes_no_files_is_none(hub: FakeHub, sibling: object) -> None:
    hub.siblings = [sibling]
    with pytest.raises(ConnectionFailedError, match="something that is no list of files"):
        fetch()


@pytest.mark.parametrize(
    "name", ["model\0.safetensors", "m\n.safetensors", "m" * 300 + ".safetensors", "./m.safetensors"]
)
def test_a_name_that_no_file_here_can_have_is_refused(hub: FakeHub, name: str) -> None:
    hub.siblings = [SOMETHING | {"rfilename": name}]
    with pytest.raises(CheckpointError, match="cannot be stored"):
        fetch()


def test_a_name_that_is_merely_unusual_is_no_matter(hub: FakeHub) -> None:
    hub.files["그림\u3000 1.png"] = b"a picture"
    assert "그림\u3000 1.png" in fetch().left_out


def test_a_file_that_is_to_lie_below_another_is_refused_before_anything_is_fetched(hub: FakeHub) -> None:
    for name in ("additional_chat_templates/a.jinja", "additional_chat_templates/a.jinja/b.jinja"):
        hub.files[name] = name.encode()
    with pytest.raises(
        CheckpointError, match=r"names 'additional_chat_templates/a\.jinja' as a file, and files"
    ):
        fetch()
    assert not [path for _, path, _ in hub.asked if "/resolve/" in path]


@pytest.mark.parametrize(
    "location", ["http://[::1/x", "http://a..b/x", f"http://{'a' * 70}.b/x", "http://h:port/x", "//[/x"]
)
def test_a_redirect_to_what_is_no_address_is_one_line(
    hub: FakeHub, location: str, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.location = location
    with pytest.raises(ConnectionFailedError, match="leads on to something that is none"):
        fetch()
    assert capfd.readouterr().err == ""


def test_an_endpoint_that_is_no_address_is_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://[hub")
    with pytest.raises(ConnectionFailedError, match=r"^http://\[hub is no address"):
        fetch()


def test_a_list_of_files_without_end_is_not_read_to_it(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_LARGEST_LIST", 2**20)
    hub.endless = True
    with pytest.raises(ConnectionFailedError, match="more than 1,048,576 bytes, which is no list of files"):
        fetch()
    # What lies in the sockets' buffers was sent, too.
    assert hub.sent < 64 * 2**20


def test_a_config_json_that_is_too_large_is_not_fetched(hub: FakeHub) -> None:
    hub.siblings = [
        {"rfilename": "config.json", "size": 2**40, "blobId": "0" * 40},
        {"rfilename": "model.safetensors", "size": 1, "blobId": "1" * 40},
    ]
    with pytest.raises(CheckpointError, match=r"config\.json has 1,099,511,627,776 bytes; at most"):
        look_ahead(model(), pause=lambda seconds: None)
    assert not [path for _, path, _ in hub.asked if "/resolve/" in path]


@pytest.mark.parametrize("revision", [".", "a/./b", "x\x9fy", "../main"])
def test_a_revision_that_no_hub_has_is_not_asked_for(hub: FakeHub, revision: str) -> None:
    with pytest.raises(CheckpointError, match="a branch, tag or commit is needed"):
        fetch(revision=revision)
    assert hub.asked == []


def test_a_password_in_the_hubs_address_is_not_shown(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://user:hunter2@127.0.0.1:9")
    with pytest.raises(ConnectionFailedError, match="could not be reached") as caught:
        fetch()
    assert "hunter2" not in caught.value.message


def test_tls_that_breaks_in_the_middle_is_tried_again_and_a_certificate_is_not(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, broken = Hub.open, ["DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "UNEXPECTED_EOF_WHILE_READING"]

    def breaking(self: Hub, *arguments: Any) -> requests.Response:
        if broken:
            raise requests.exceptions.SSLError(f"[SSL: {broken.pop()}]")
        return really(self, *arguments)

    monkeypatch.setattr(Hub, "open", breaking)
    assert (fetch().path / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert broken == []
    shutil.rmtree(cache())
    broken.extend(["DECRYPTION_FAILED_OR_BAD_RECORD_MAC", *["CERTIFICATE_VERIFY_FAILED"] * 8])
    broken.reverse()
    with pytest.raises(ConnectionFailedError, match=r"^the certificate of"):
        fetch()


def test_a_token_that_nobody_knows_is_said_to_be_so(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    with pytest.raises(CheckpointError, match="does not know the token in HF_TOKEN"):
        fetch()


@pytest.mark.parametrize("token", [None, "hf_other"])
def test_a_private_or_missing_repository_is_told_as_both(
    hub: FakeHub, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(CheckpointError, match="shows no model owner/other: there is none, or it is private"):
        fetch(source="owner/other")


def test_a_revision_that_is_not_there_is_named(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="owner/name has no revision v9"):
        fetch(revision="v9")


def test_a_branch_with_a_slash_is_found_afterwards(hub: FakeHub, tmp_path: Path) -> None:
    pulled = fetch(revision="v1/beta")
    assert resolve_source(model(revision="v1/beta"), tmp_path) == pulled.path


def test_pickles_alone_are_refused(hub: FakeHub) -> None:
    del hub.files[WEIGHTS]
    with pytest.raises(CheckpointError, match="no safetensors files, only pickles"):
        fetch()


def test_a_name_that_climbs_out_of_the_directory_is_refused(hub: FakeHub) -> None:
    hub.files["../../evil.json"] = b"{}"
    with pytest.raises(CheckpointError, match="cannot be stored"):
        fetch()


def test_what_is_no_hub_is_said_to_be_none(hub: FakeHub) -> None:
    hub.is_no_hub = True
    with pytest.raises(ConnectionFailedError, match="something that is no list of files"):
        fetch()


def test_an_unreachable_hub_is_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionFailedError, match=r"^http://127.0.0.1:9 could not be reached$"):
        fetch()


def test_a_proxy_that_is_away_is_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(ConnectionFailedError, match=r"the proxy on the way to http://hub\.invalid"):
        fetch()


def test_a_missing_ca_file_is_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    monkeypatch.setenv("HF_ENDPOINT", f"https://127.0.0.1:{hub.port}")
    with pytest.raises(ConnectionFailedError, match=r"/nowhere/ca\.pem"):
        fetch()


def test_a_full_disk_is_said_before_anything_is_fetched(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=300 * 2**20 - 7 * 2**20)
    hub.files[WEIGHTS] = bytes(50 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=r"needs 0\.05 GiB more in .*, and 0\.29 GiB are free"):
        fetch()
    assert hub.ranges_asked() == []


def test_offline_nothing_is_asked(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"HF_HUB_OFFLINE .* forbids it"):
        fetch()
    assert hub.asked == []


def test_the_command_shows_what_it_fetched(hub: FakeHub) -> None:
    from tri_serve.cli.main import cli

    done = CliRunner().invoke(cli, ["checkpoint", "pull", "owner/name", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["commit"] == COMMIT
    assert said["path"] == str(cache() / "snapshots" / COMMIT)
    assert said["fetched_bytes"] > len(hub.files[WEIGHTS])
    assert "owner/name: asking the hub what there is" in done.stderr


def test_up_fetches_what_is_missing_before_it_starts_anything(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    spec = Spec.model_validate(
        {
            "model": {"source": "owner/name", "served_name": "m"},
            "engine": {"device": "cpu", "command": ("/bin/true",), "cpu_kv_cache_gib": 0.1},
            "fleet": {"supervisor": "process"},
            "gateway": {"port": free_port()},
        }
    )
    lines: list[str] = []
    times = Times(begun=time.monotonic())
    paths = release_paths("pulling")
    paths.create()
    check(Desired(spec=spec, environment_hashes={}), paths, times, view=PlainSteps(lines.append))
    assert times.pull > 0
    assert [line.split("  ")[-1].split(",")[0] for line in lines if "owner/name" in line] == [
        "checkpoint: owner/name",
        "checkpoint: owner/name: asking the hub what there is",
        *[line.split("  ")[-1].split(",")[0] for line in lines if " of " in line],
        f"checkpoint: ok owner/name: {amount(hub_bytes(hub))} fetched",
        "checkpoint: ok owner/name: 3.7M parameters",
    ]
    fetched = len(hub.asked)
    check(Desired(spec=spec, environment_hashes={}), paths, times, view=PlainSteps(lines.append))
    assert len(hub.asked) == fetched


def test_up_reads_config_json_first_and_fetches_nothing_more_if_that_rules_it_out(
    hub: FakeHub, tmp_path: Path
) -> None:
    spec = Spec.model_validate(
        {
            "model": {"source": "owner/name", "served_name": "m", "max_model_len": 10**6},
            "engine": {"device": "cpu", "command": ("/bin/true",), "cpu_kv_cache_gib": 0.1},
            "fleet": {"supervisor": "process"},
            "gateway": {"port": free_port()},
        }
    )
    paths = release_paths("ruled-out")
    paths.create()
    with pytest.raises(SpecError, match=r"config\.json allows"):
        check(
            Desired(spec=spec, environment_hashes={}), paths, Times(time.monotonic()), view=PlainSteps(print)
        )
    assert hub.ranges_asked() == []
    assert not is_pulled(model(), tmp_path)
    # What was fetched of it is not fetched again.
    ahead = look_ahead(model())
    assert (ahead.missing, fetch().fetched) == (hub_bytes(hub) - len(hub.files["config.json"]), ahead.missing)
    config = [path for _, path, _ in hub.asked if path.endswith("/config.json")]
    assert len(config) == 1


def hub_bytes(hub: FakeHub) -> int:
    """Of what is wanted."""
    left = {"README.md", "pytorch_model.bin", "modeling_own.py", "original/consolidated.00.safetensors"}
    return sum(len(content) for name, content in hub.files.items() if name not in left)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def test_pulls_of_one_commit_at_once_do_not_break_each_other(hub: FakeHub) -> None:
    fetch()
    snapshot = cache() / "snapshots" / COMMIT
    names = {file.name for file in snapshot.iterdir()}
    for _ in range(8):
        shutil.rmtree(snapshot)
        begin = threading.Barrier(3)

        def pull_too(begin: threading.Barrier = begin) -> Path:
            begin.wait(10)
            return fetch().path

        with ThreadPoolExecutor(3) as pool:
            paths = [one.result() for one in [pool.submit(pull_too) for _ in range(3)]]
        assert paths == [snapshot] * 3
        assert {file.name for file in snapshot.iterdir()} == names
        assert [path.name for path in (cache() / "refs").iterdir()] == ["main"]


def test_a_process_that_is_killed_loses_nothing(hub: FakeHub) -> None:
    hub.files[WEIGHTS] = os.urandom(30_000_000)
    hub.cut_after = [20 * CHUNK] * 100
    argv = [sys.executable, "-m", "tri_serve.cli.main", "checkpoint", "pull", "owner/name"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (partial(hub).exists() and partial(hub).stat().st_size >= 20 * CHUNK):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    kept = partial(hub).stat().st_size
    assert kept >= 20 * CHUNK
    hub.cut_after = []
    hub.asked.clear()
    assert (fetch().path / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert hub.ranges_asked() == [f"bytes={kept}-"]


def _with_the_hubs_client(call: str) -> str:
    """Run it in a process of its own: the client reads the environment when it is imported."""
    program = f"from huggingface_hub import snapshot_download; print({call})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True,
        env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
    )  # fmt: skip
    return done.stdout.strip().splitlines()[-1]
