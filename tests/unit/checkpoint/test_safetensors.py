"""A damaged weights file must be named as such before an engine spends a minute on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tri_serve.checkpoint.safetensors import NewTensor, read_header, write_file
from tri_serve.errors import CheckpointError

TENSORS = {
    "wide": NewTensor("F32", (2, 3), bytes(range(24))),
    "narrow": NewTensor("U8", (5,), b"abcde"),
    "brain": NewTensor("BF16", (4,), b"ABCDEFGH"),
    "empty": NewTensor("F16", (0, 7), b""),
    "scalar": NewTensor("I64", (), bytes(8)),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "model.safetensors"
    write_file(written, TENSORS)
    return written


def parts(file: Path) -> tuple[dict[str, Any], bytes]:
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def assemble(file: Path, header: object, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_what_is_written_is_read_back(file: Path) -> None:
    found = read_header(file)
    assert {name: NewTensor(t.dtype, t.shape, t.read()) for name, t in found.items()} == TENSORS


def test_wide_elements_come_first_so_that_each_tensor_is_aligned(file: Path) -> None:
    for tensor in read_header(file).values():
        assert tensor.begin % {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "U8": 1}[tensor.dtype] == 0


def test_the_same_tensors_in_another_order_give_the_same_bytes(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    write_file(other, dict(reversed(TENSORS.items())))
    assert other.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("kept", [0, 7, 8, 20, 300, -1])
def test_a_truncated_file_is_refused(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="not a whole safetensors file") as refused:
        read_header(file)
    assert refused.value.path == file
    assert refused.value.hint


def test_every_single_bit_of_the_header_length_matters(file: Path) -> None:
    raw = file.read_bytes()
    for bit in range(64):
        flipped = int.from_bytes(raw[:8], "little") ^ (1 << bit)
        file.write_bytes(flipped.to_bytes(8, "little") + raw[8:])
        with pytest.raises(CheckpointError):
            read_header(file)


def test_a_huge_header_is_refused_without_reading_it(file: Path) -> None:
    file.write_bytes((10**15).to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="at most 100,000,000 are allowed"):
        read_header(file)


def shift(header: dict[str, Any], begin: int, end: int) -> None:
    header["narrow"]["data_offsets"][0] += begin
    header["narrow"]["data_offsets"][1] += end


MUTATIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "overlaps what lies before": lambda h: shift(h, -1, -1),
    "belong to no tensor": lambda h: h.pop("brain"),
    "it is truncated": lambda h: shift(h, 1, 1),
    "which is 5 bytes, and has 4": lambda h: shift(h, 0, -1),
    "which is 10 bytes, and has 5": lambda h: h["narrow"].update(dtype="F16"),
    "which is 6 bytes, and has 5": lambda h: h["narrow"].update(shape=[6]),
    "has dtype 'F12'": lambda h: h["narrow"].update(dtype="F12"),
    "has dtype \\['U8'\\]": lambda h: h["narrow"].update(dtype=["U8"]),
    "impossible shape": lambda h: h["narrow"].update(shape=[-5]),
    "impossible shape or byte range: 5": lambda h: h["narrow"].update(shape=5),
    "impossible shape or byte range: \\[True, 5\\]": lambda h: h["narrow"].update(shape=[True, 5]),
    "impossible shape or byte range: \\[5.0\\]": lambda h: h["narrow"].update(shape=[5.0]),
    "range: \\[5\\], \\[5, 0\\]": lambda h: h["narrow"].update(data_offsets=[5, 0]),
    "range: \\[5\\], \\[0\\]": lambda h: h["narrow"].update(data_offsets=[0]),
    "range: \\[999": lambda h: h["narrow"].update(shape=[10**4000 - 1, 10**4000 - 1]),
    "range: \\[7, 7, 7": lambda h: h["narrow"].update(shape=[7] * 100_000),
    "names a tensor '.x1b.2J'": lambda h: h.update({"\x1b[2J": h.pop("narrow")}),
    "names a tensor '.ud800'": lambda h: h.update({"\ud800": h.pop("narrow")}),
    "needs dtype, shape and data_offsets": lambda h: h["narrow"].pop("shape"),
    "brain needs dtype": lambda h: h.update(brain=None),
}


@pytest.mark.parametrize("message", MUTATIONS)
def test_a_header_that_contradicts_itself_or_the_file_is_refused(file: Path, message: str) -> None:
    header, data = parts(file)
    MUTATIONS[message](header)
    assemble(file, header, data)
    with pytest.raises(CheckpointError, match=message):
        read_header(file)


def test_bytes_after_the_last_tensor_are_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="1 bytes at its end belong to no tensor"):
        read_header(file)


@pytest.mark.parametrize("header", [b"", b"[]", b"null", b"{", b"\xff{}", b"[" * 100_000])
def test_a_header_that_is_no_json_object_is_refused(file: Path, header: bytes) -> None:
    assemble(file, header, b"")
    with pytest.raises(CheckpointError, match="its header is not"):
        read_header(file)


def test_a_name_that_stands_twice_is_refused(file: Path) -> None:
    entry = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    assemble(file, b'{"a":' + entry + b',"a":' + entry + b"}", b"x")
    with pytest.raises(CheckpointError, match="names 'a' twice"):
        read_header(file)


def test_a_file_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        read_header(tmp_path)
