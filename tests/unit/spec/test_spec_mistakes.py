"""What is said about each mistake that a spec can hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tri_serve.errors import SpecError
from tri_serve.spec.document import MAX_BYTES, MAX_VALUES
from tri_serve.spec.load import load_spec

BASE = "preset: tri-tiny-awq\n"

UNKNOWN_KEYS = [
    ("gatway: {port: 1}", "gatway: unknown key; the nearest is gateway"),
    ("gateway: {prot: 1}", "gateway.prot: unknown key; the nearest is gateway.port"),
    (
        "gateway: {timeouts: {haed: 1}}",
        "gateway.timeouts.haed: unknown key; the nearest is gateway.timeouts.head",
    ),
    ("port: 8001", "port: unknown key; the nearest is gateway.port"),
    ("gateway.port: 8001", "gateway.port: unknown key; write port in the section gateway"),
    ("fleet: {zzz: 1}", "fleet.zzz: unknown key; allowed here: target, supervisor, replicas, ray"),
    ("gateway: {port: {x: 1}}", "gateway.port: found a section (x); takes a whole number from 1 to 65535"),
]

WRONG_VALUES = [
    ("gateway: {port: 99999}", "gateway.port: found the number 99999; takes a whole number from 1 to 65535"),
    ("gateway: {port: 8000.0}", "gateway.port: found the number 8000.0; takes a whole number"),
    (
        "gateway: {workers: '2'}",
        "found the text '2'; takes a whole number from 1 to 256; take the quotes away",
    ),
    ("gateway: {port: 22:30}", "gateway.port: found the text '22:30'; takes a whole number"),
    ("gateway: {port: 0100}", "gateway.port: found the text '0100'; takes a whole number"),
    ("gateway: {host: node}", "gateway.host: node goes with the target ray alone; give an address"),
    ("gateway: {host: example.org}", "gateway.host: found the text 'example.org': not an IP address"),
    (
        "gateway: {timeouts: {head: 30x}}",
        "found the text '30x'; takes a number above 0, up to 86400 or text such as",
    ),
    ("gateway: {timeouts: {head: yes}}", "gateway.timeouts.head: found yes (which YAML reads as true)"),
    (
        "gateway: {timeouts: 5}",
        "gateway.timeouts: found the number 5; takes a section with the keys head, body",
    ),
    ("gateway: [1]", "gateway: found a list of 1; takes a section with the keys host, port"),
    ("engine: {dtype: bf16}", "found the text 'bf16'; takes one of bfloat16, float16, float32, auto"),
    ("engine: {kind: tgi}", "engine.kind: found the text 'tgi'; takes one of vllm, sglang"),
    ("engine: {gpu_memory_utilization: .inf}", "found the text '.inf'; takes a number above 0, up to 1"),
    ("engine: {gpu_memory_utilization: 92}", "found the number 92; takes a number above 0, up to 1"),
    ("engine: {cpu_kv_cache_gib: true}", "engine.cpu_kv_cache_gib: found true; takes a number"),
    ("engine: {command: []}", "engine.command: found a list of 0; takes a list of text, not empty"),
    ("engine: {extra_args: [--a, 1]}", "engine.extra_args[1]: found the number 1; takes"),
    ("engine: {env: {N: 4}}", 'engine.env.N: found the number 4; takes text; put it in quotes: "4"'),
    ("engine: {env: {A B: x}}", "engine.env.A B: not a variable's name"),
    ("engine: {env: [a]}", "engine.env: found a list of 1; takes names with text values"),
    ("model: {served_name: no}", 'found no (which YAML reads as false); takes text; put it in quotes: "no"'),
    (
        "model: {served_name: 1.0}",
        'model.served_name: found the number 1.0; takes text; put it in quotes: "1.0"',
    ),
    ("model: {served_name: ''}", "model.served_name: found the text ''; takes text"),
    (
        "model: {max_model_len: 8q}",
        "found the text '8q'; takes a whole number from 1 to 16777216 or text such as 8k",
    ),
    ("model: {max_model_len: 1.5K}", "found the text '1.5K'; takes a whole number"),
    (
        "model: {source: --trust-remote-code}",
        "model.source: found the text '--trust-remote-code': begins with a dash",
    ),
    (
        "model: {source: ' /models'}",
        "model.source: found the text ' /models': has a blank before or after it",
    ),
    ("model: {revision: -x}", "model.revision: found the text '-x': begins with a dash"),
    ("model: {revision: a b}", "model.revision: found the text 'a b': has a blank in it"),
    ("engine: {image: --privileged}", "engine.image: found the text '--privileged': begins with a dash"),
    ("engine: {image: a b}", "engine.image: found the text 'a b': no name of an image"),
    ("engine: {image: 'a:${B}'}", "engine.image: found the text 'a:${B}': no name of an image"),
    ("fleet: {target: moon}", "fleet.target: found the text 'moon'; takes one of local, ray"),
    ("engine: {python: a, image: b}", "engine.image: python and image exclude each other"),
]


@pytest.mark.parametrize(("line", "words"), UNKNOWN_KEYS + WRONG_VALUES)
def test_a_mistake_is_named_with_file_line_key_finding_and_remedy(refusal, line: str, words: str) -> None:
    error = refusal(BASE + line + "\n")
    assert len(error.problems) == 1
    assert error.message.startswith("tri-serve.yaml:2: ")
    assert words in error.message
    assert "\n" not in error.message


NOT_A_SPEC = [
    ("", "tri-serve.yaml: empty"),
    ("# nothing\n", "tri-serve.yaml: empty"),
    ("null\n", "tri-serve.yaml: empty"),
    ("- a\n", "tri-serve.yaml: found a list of 1; a spec has the keys preset, model"),
    ("hello\n", "tri-serve.yaml: found the text 'hello'; a spec has the keys"),
    ("a: b: c\n", "tri-serve.yaml:1: not valid YAML"),
    ("gateway:\n\tport: 1\n", "tri-serve.yaml:2: not valid YAML: a tab; YAML is indented with spaces"),
    ('model: "abc\n', "not valid YAML: found unexpected end of stream"),
    ("model: \x07\n", "tri-serve.yaml:1: not valid YAML: the character U+0007 is not allowed"),
    ("a: &x 1\nb: *x\n", "tri-serve.yaml:1: anchors and aliases are not taken"),
    ("b: *x\n", "tri-serve.yaml:1: anchors and aliases are not taken"),
    ("a: !!python/object:os.system 1\n", "tri-serve.yaml:1: the tag"),
    ('model: {source: "~\\0"}\n', "tri-serve.yaml:1: a NUL character is not taken"),
    ("? [a]\n: b\n", "tri-serve.yaml:1: a key must be plain text"),
    ("{{ values }}\n", "tri-serve.yaml:1: a key must be plain text"),
    (BASE + "---\n" + BASE, "tri-serve.yaml:2: a second document begins here"),
    ("x: " + "[" * 5000, "tri-serve.yaml:1: nested deeper than 16 levels"),
    (f"x: [{'a,' * (MAX_VALUES + 1)}]", f"tri-serve.yaml:1: more than {MAX_VALUES} values"),
    ("preset: tri-tiny-awk\n", "preset: no preset is named 'tri-tiny-awk'; the nearest is tri-tiny-awq"),
    ("preset: [a]\n", "tri-serve.yaml:1: preset: found a list of 1; takes the name of a preset"),
]


@pytest.mark.parametrize(("text", "words"), NOT_A_SPEC, ids=[text[:20] or "empty" for text, _ in NOT_A_SPEC])
def test_what_is_no_spec_is_refused_in_one_line(refusal, text: str, words: str) -> None:
    error = refusal(text)
    assert words in error.message
    assert "\n" not in error.message
    assert len(error.message) < 200


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(refusal) -> None:
    error = refusal(BASE + "gateway:\n  prot: 1\n  port: 0\nengine:\n  kind: x\nengine: {}\n")
    assert [problem.split(": ")[0] for problem in error.problems] == [
        "tri-serve.yaml:3",
        "tri-serve.yaml:4",
        "tri-serve.yaml:6",
        "tri-serve.yaml:7",
    ]
    assert error.message.splitlines()[0] == "the spec has 4 mistakes:"
    assert "engine: stands twice; it is on line 5 already" in error.problems[3]


def test_a_duplicate_key_is_a_mistake_even_with_the_same_value(refusal) -> None:
    error = refusal(BASE + "gateway:\n  port: 8001\n  port: 8001\n")
    assert error.problems == ("tri-serve.yaml:4: gateway.port: stands twice; it is on line 3 already",)


def test_a_flood_of_mistakes_is_cut(refusal) -> None:
    error = refusal(BASE + "".join(f"k{number}: 1\n" for number in range(100)))
    assert len(error.problems) == 100
    assert len(error.message.splitlines()) == 22
    assert error.message.endswith("and 80 more")


def test_a_key_that_a_higher_layer_overrides_is_not_judged(write_spec) -> None:
    path = write_spec(BASE + "gateway: {port: 0}\n")
    assert load_spec(None, [path], {}, ["gateway.port=8001"]).spec.gateway.port == 8001


def test_an_unknown_key_is_a_mistake_even_when_reset() -> None:
    with pytest.raises(SpecError, match=r"--set: gatway: unknown key; the nearest is gateway"):
        load_spec(None, [], {}, ["gatway=null"])


def test_a_file_without_model_is_told_what_is_missing(refusal) -> None:
    error = refusal("gateway: {port: 8001}\n")
    assert [problem.split(": ")[0] for problem in error.problems] == ["model.source", "model.served_name"]
    assert "preset: tri-tiny-awq" in (error.hint or "")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TRI_SERVE_GATEWAY__PROT", "1", "unknown key; the nearest is TRI_SERVE_GATEWAY__PORT"),
        ("TRI_SERVE_GATWAY__PORT", "1", "unknown key; the nearest is TRI_SERVE_GATEWAY"),
        ("TRI_SERVE_GATEWAY__PORT", "x", "gateway.port: found the text 'x'; takes a whole number"),
        ("TRI_SERVE_ENGINE__EXTRA_ARGS", "[a", "not valid YAML"),
        ("TRI_SERVE_ENGINE__EXTRA_ARGS", "{a: 1, a: 2}", "a: stands twice"),
        ("TRI_SERVE_GATEWAY____PORT", "1", "no key has this name"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(None, [], {name: value})
    assert caught.value.message.startswith(name)
    assert words in caught.value.message


def test_a_wrong_flag_is_named_with_its_key() -> None:
    with pytest.raises(SpecError, match=r"^--set engine\.extra_args: not valid YAML"):
        load_spec(None, [], {}, ["engine.extra_args=[a"])
    with pytest.raises(SpecError, match=r"^--set: gateway\.port: found the number 0; takes a whole number"):
        load_spec(None, [], {}, ["gateway.port=0"])


def test_an_unknown_preset_that_looks_like_a_file_is_told_about_f() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("my.yaml", [], {})
    assert caught.value.hint == "to read a file: -f my.yaml"


def test_a_missing_file_a_directory_and_an_unreadable_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        load_spec(None, [tmp_path / "nope.yaml"], {})
    with pytest.raises(SpecError, match="a directory, not a spec file"):
        load_spec(None, [tmp_path], {})
    # Reading a process's memory fails for root too, where file modes would not stop the test's user.
    with pytest.raises(SpecError, match=r"/proc/self/mem: "):
        load_spec(None, [Path("/proc/self/mem")], {})


def test_a_file_beyond_the_bound_is_not_read_through(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(SpecError, match="larger than 1024 KiB"):
        load_spec(None, [path], {})
    with pytest.raises(SpecError, match="larger than 1024 KiB"):
        load_spec(None, [Path("/dev/zero")], {})


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"model:\n  served_name: caf\xe9\n")
    with pytest.raises(SpecError, match=rf"{os.sep}latin\.yaml:2: not UTF-8 \(byte 0xe9\)"):
        load_spec(None, [path], {})


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfpreset: tri-tiny-awq\r\ngateway:\r\n  port: 8001\r\n")
    loaded = load_spec(None, [path], {})
    assert loaded.spec.gateway.port == 8001
    assert loaded.origins["gateway.port"].line == 3


def test_keys_that_yaml_reads_as_booleans_stay_names(write_spec) -> None:
    path = write_spec(BASE + "engine: {env: {NO: a, on: b, 1: c}}\n")
    with pytest.raises(SpecError) as caught:
        load_spec(None, [path], {})
    assert caught.value.problems == (
        "tri-serve.yaml:2: engine.env.1: not a variable's name: letters, digits and _, no digit first",
    )
    path = write_spec(BASE + "engine: {env: {NO: a, on: b}}\nmodel: {revision: 2024-01-01}\n")
    spec = load_spec(None, [path], {}).spec
    assert spec.engine.env == {"NO": "a", "on": "b"}
    assert spec.model.revision == "2024-01-01"


@pytest.mark.parametrize("text", ["0x_", "0b_", "._", "9" * 5_000, "1e400", ".nan"])
def test_what_yaml_takes_for_a_number_but_is_none_is_text(refusal, text: str) -> None:
    error = refusal(BASE + f"gateway: {{port: {text}}}\n")
    assert "gateway.port: found the text" in error.message
    assert len(error.message) < 200


def test_files_read_the_same_without_libyaml(refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    text = BASE + "gateway: {port: '8001', workers: 2}\nmodel: {served_name: no}\n"
    fast = refusal(text).problems
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert refusal(text).problems == fast
    assert len(fast) == 2
    assert refusal("gateway:\n\tport: 1\n").message == (
        "tri-serve.yaml:2: not valid YAML: a tab; YAML is indented with spaces"
    )
    assert "U+0007" in refusal("model: \x07\n").message


def test_the_home_of_nobody_is_left_to_whoever_opens_it(write_spec) -> None:
    path = write_spec(BASE + "model: {source: ~no-such-user/m}\n")
    assert load_spec(None, [path], {}).spec.model.source.endswith("/~no-such-user/m")


@pytest.mark.parametrize("value", ["9" * 400 + "k", "9" * 5000 + "K", "0." + "9" * 5000 + "k"])
def test_a_count_of_hundreds_of_digits_is_refused_as_any_other_text(refusal, value: str) -> None:
    error = refusal(f"preset: tri-tiny-awq\nmodel: {{max_model_len: '{value}'}}\n")
    assert "model.max_model_len" in error.message


@pytest.mark.parametrize("value", ["9" * 400 + "s", "9" * 5000 + "ms"])
def test_a_duration_of_hundreds_of_digits_is_refused_as_any_other_text(refusal, value: str) -> None:
    error = refusal(f"preset: tri-tiny-awq\nengine: {{start_timeout: '{value}'}}\n")
    assert "engine.start_timeout" in error.message
