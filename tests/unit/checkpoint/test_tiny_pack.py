"""Packed weights, unpacked here bit by bit from the formats' definitions, are the weights that went in."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tri_serve.checkpoint.safetensors import NewTensor
from tri_serve.checkpoint.tiny import pack

Array = NDArray[np.float32]


@pytest.fixture(params=["normal", "skewed", "positive", "zero"])
def weight(request: pytest.FixtureRequest) -> Array:
    random = np.random.default_rng(7)
    drawn = random.normal(0, 0.05, (24, 256)).astype(np.float32)
    return {
        "normal": drawn,
        "skewed": drawn + np.float32(0.08),
        "positive": np.abs(drawn) + np.float32(0.5),
        "zero": np.zeros_like(drawn),
    }[request.param]


def words(tensor: NewTensor) -> list[list[int]]:
    assert tensor.dtype == "I32"
    return np.frombuffer(tensor.data, "<u4").reshape(tensor.shape).tolist()


def scales(tensor: NewTensor) -> Array:
    if tensor.dtype == "BF16":
        wide = np.frombuffer(tensor.data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(tensor.shape)
    assert tensor.dtype == "F16"
    return np.frombuffer(tensor.data, "<f2").astype(np.float32).reshape(tensor.shape)


def nibble(word: int, index: int) -> int:
    return (word >> (4 * index)) & 15


def unpack_awq(packed: dict[str, NewTensor], outputs: int, inputs: int) -> Array:
    # The nibble in which AutoAWQ's gemm kernel looks for each of eight neighbouring outputs.
    place = [0, 4, 1, 5, 2, 6, 3, 7]
    weights, zeros, scale = words(packed["qweight"]), words(packed["qzeros"]), scales(packed["scales"])
    found = np.empty((outputs, inputs), np.float32)
    for k in range(inputs):
        for n in range(outputs):
            code = nibble(weights[k][n // 8], place[n % 8])
            zero = nibble(zeros[k // 128][n // 8], place[n % 8])
            found[n, k] = (code - zero) * scale[k // 128, n]
    return found


def unpack_gptq(packed: dict[str, NewTensor], outputs: int, inputs: int) -> Array:
    group = words(packed["g_idx"])
    weights, zeros, scale = words(packed["qweight"]), words(packed["qzeros"]), scales(packed["scales"])
    found = np.empty((outputs, inputs), np.float32)
    for k in range(inputs):
        for n in range(outputs):
            # Zeros are stored less one.
            zero = nibble(zeros[group[k]][n // 8], n % 8) + 1
            found[n, k] = (nibble(weights[k // 8][n], k % 8) - zero) * scale[group[k], n]
    return found


def unpack_ct(packed: dict[str, NewTensor], outputs: int, inputs: int) -> Array:
    assert np.frombuffer(packed["weight_shape"].data, "<i8").tolist() == [outputs, inputs]
    weights, scale = words(packed["weight_packed"]), scales(packed["weight_scale"])
    found = np.empty((outputs, inputs), np.float32)
    for n in range(outputs):
        for k in range(inputs):
            # Signed numbers, moved by 8 so that none is negative.
            found[n, k] = (nibble(weights[n][k // 8], k % 8) - 8) * scale[n, k // 128]
    return found


UNPACK = {"awq": unpack_awq, "gptq": unpack_gptq, "ct": unpack_ct}


def steps(fmt: str, packed: dict[str, NewTensor]) -> Array:
    """The size of one step for each weight, ``[outputs, inputs]``."""
    scale = scales(packed["weight_scale"]) if fmt == "ct" else scales(packed["scales"]).T
    return np.repeat(scale, 128, axis=1)


@pytest.mark.parametrize("fmt", UNPACK)
def test_each_weight_comes_back_within_half_a_step(fmt: str, weight: Array) -> None:
    packer, _ = pack.PACKERS[fmt]
    packed = packer(weight)
    found = UNPACK[fmt](packed, *weight.shape)
    # Dividing by the step rounds in float32.
    assert (np.abs(found - weight) <= steps(fmt, packed) * np.float32(0.5 + 1e-5)).all()


# Symmetric scales are rounded up, so that -7.5 steps never round to -8, which is code 0.
@pytest.mark.parametrize(("fmt", "used"), [("awq", range(16)), ("gptq", range(1, 16)), ("ct", range(1, 16))])
def test_the_whole_scale_is_used_where_weights_spread(fmt: str, used: range) -> None:
    weight = np.linspace(-1, 1, 8 * 128, dtype=np.float32).reshape(128, 8).T.copy()
    packer, _ = pack.PACKERS[fmt]
    packed = packer(weight)
    codes = {
        nibble(word, index)
        for row in words(packed["weight_packed" if fmt == "ct" else "qweight"])
        for word in row
        for index in range(8)
    }
    assert codes == set(used)


@pytest.mark.parametrize("fmt", UNPACK)
def test_scales_are_the_same_number_in_bfloat16_and_float16(fmt: str, weight: Array) -> None:
    packer, _ = pack.PACKERS[fmt]
    packed = packer(weight)
    scale = scales(packed["weight_scale" if fmt == "ct" else "scales"])
    assert (scale > 0).all()
    assert (scale.view(np.uint32) & 0xFFFF == 0).all()
    assert (scale.astype(np.float16).astype(np.float32) == scale).all()


def test_dequantised_is_what_the_packed_bytes_say(weight: Array) -> None:
    assert (
        pack.round_symmetric(weight).dequantised()
        == unpack_ct(pack.pack_compressed_tensors(weight), *weight.shape)
    ).all()
    assert (
        pack.round_with_zero(weight).dequantised() == unpack_awq(pack.pack_awq(weight), *weight.shape)
    ).all()


@pytest.mark.parametrize("fmt", UNPACK)
def test_packing_twice_gives_the_same_bytes(fmt: str, weight: Array) -> None:
    packer, _ = pack.PACKERS[fmt]
    assert packer(weight) == packer(weight.copy())
