"""Runs in an engine environment: what vLLM makes of checkpoints, parameters and KV cache, on one of so many ranks.

The engine's own classes make the model on PyTorch's meta device: tensors have shapes and types, and no memory, so
that Tri-21B's own size takes a second. No weights are read, nothing is repacked, and no other rank is needed.

argv: the name of a file to make, and a JSON list of cases. Prints a JSON object a line: the case with the bytes of
its parameters, and the blocks and tokens of its KV cache, or with what the engine refuses it.
"""

import json
import sys
from typing import Any

import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment, parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.utils.torch_utils import set_default_torch_dtype
from vllm.v1.core.kv_cache_utils import get_kv_cache_capacity, get_kv_cache_configs
from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec


def parameter_bytes(config: VllmConfig, ranks: int, meeting_point: str) -> int:
    if not parallel_state.model_parallel_is_initialized():
        init_distributed_environment(1, 0, f"file://{meeting_point}", 0, "gloo")
        ensure_model_parallel_initialized(1, 1)
    # Layers ask this group how many ranks there are; they send nothing while they are made.
    parallel_state.get_tp_group().world_size = ranks
    with set_default_torch_dtype(config.model_config.dtype), torch.device("meta"):
        model = initialize_model(vllm_config=config)
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def kv_cache(config: VllmConfig, nbytes: int) -> tuple[int, int]:
    # The engine asks its workers for one; it is about order, not about size.
    config.cache_config.kv_cache_layout = "LBHNC"
    made = get_kv_cache_configs(config, [get_kv_cache_spec(config)], [nbytes])[0]
    return made.num_blocks, get_kv_cache_capacity(config, made)[0]


def main(meeting_point: str, cases: str) -> None:
    for case in json.loads(cases):
        found: dict[str, Any] = dict(case)
        args = EngineArgs(
            model=case["path"],
            dtype="bfloat16",
            enforce_eager=True,
            skip_tokenizer_init=True,
            max_model_len=case["length"],
            kv_cache_dtype=case["kv"],
            block_size=case["block"],
        )
        try:
            config = args.create_engine_config()
            with set_current_vllm_config(config):
                found["bytes"] = parameter_bytes(config, case["ranks"], meeting_point)
                found["blocks"], found["tokens"] = kv_cache(config, case["kv_bytes"])
        except (AssertionError, ValueError) as error:
            found["refused"] = str(error)
        print(json.dumps(found), flush=True)


main(*sys.argv[1:])
