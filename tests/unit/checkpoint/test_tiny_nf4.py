"""bitsandbytes' nf4 as the tiny checkpoint has it, against what bitsandbytes itself wrote of the same weight."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from tri_serve.checkpoint.tiny.nf4 import BLOCK, LEVELS, dynamic_levels, pack_nf4, unpack_nf4

# SHA-256 of the tensors that bitsandbytes 0.50.2 makes on a CPU of the weight below:
# quantize_4bit(weight, compress_statistics=True, quant_type="nf4") and QuantState.as_dict(packed=True).
BITSANDBYTES = {
    "weight": "558877e8272ba742",
    "weight.absmax": "b8f165d79a884114",
    "weight.quant_map": "8501941daa1b8a90",
    "weight.nested_absmax": "fbc88da05e5c536c",
    "weight.nested_quant_map": "e732639a65f497b4",
    "weight.quant_state.bitsandbytes__nf4": "4a84279c90a6ec53",
}


@pytest.fixture
def weight() -> NDArray[np.float32]:
    """Waves whose height differs from block to block, in bfloat16."""
    index = np.arange(128 * 320)
    values = (np.sin(index * 0.7) * (0.02 + 0.001 * (index // 64 % 37))).astype(np.float32)
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    found: NDArray[np.float32] = rounded.astype(np.uint32).view(np.float32).reshape(128, 320)
    return found


@pytest.mark.parametrize("name", BITSANDBYTES)
def test_every_tensor_is_what_bitsandbytes_writes(weight: NDArray[np.float32], name: str) -> None:
    packed = pack_nf4(weight)
    assert set(packed) == set(BITSANDBYTES)
    assert hashlib.sha256(packed[name].data).hexdigest()[:16] == BITSANDBYTES[name]


def test_a_weight_comes_back_within_half_the_widest_step_of_its_block(weight: NDArray[np.float32]) -> None:
    found = unpack_nf4(pack_nf4(weight)).reshape(-1, BLOCK)
    blocks = weight.reshape(-1, BLOCK)
    widest = max(b - a for a, b in pairwise(LEVELS))
    # The blocks' scales are rounded as well: some hundredths.
    assert (np.abs(found - blocks).max(axis=-1) <= np.abs(blocks).max(axis=-1) * (widest / 2 + 0.03)).all()


def test_a_block_of_zeros_stays_zero_and_takes_the_middle_level() -> None:
    packed = pack_nf4(np.zeros((2, 64), np.float32))
    assert set(packed["weight"].data) == {0x77}
    assert not unpack_nf4(packed).any()


def test_the_state_says_how_to_read_it(weight: NDArray[np.float32]) -> None:
    state = json.loads(pack_nf4(weight)["weight.quant_state.bitsandbytes__nf4"].data)
    assert (state["quant_type"], state["blocksize"], state["nested_blocksize"]) == ("nf4", 64, 256)
    assert (state["shape"], state["dtype"]) == ([128, 320], "bfloat16")


def test_the_second_levels_rise_and_reach_from_almost_minus_one_to_one() -> None:
    levels = dynamic_levels()
    assert levels.size == 256
    assert (np.diff(levels) > 0).all()
    assert (levels[0], levels[-1]) == (np.float32(-0.99296874), np.float32(1))
