"""Runs in an engine environment: bytes of the parameters that vLLM makes for checkpoints, on one of so many ranks.

The engine's own classes make the model on PyTorch's meta device: tensors have shapes and types, and no memory, so
that Tri-21B's own size takes a second. No weights are read, nothing is repacked, and no other rank is needed.

argv: the name of a file to make, tensor-parallel sizes with commas between, then checkpoints. Prints one JSON
object a line: path, ranks, and bytes, or what the engine refuses it with.
"""

import json
import sys

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment, parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.utils.torch_utils import set_default_torch_dtype


def made_bytes(path: str, ranks: int, meeting_point: str) -> int:
    args = EngineArgs(model=path, dtype="bfloat16", enforce_eager=True, skip_tokenizer_init=True)
    config = args.create_engine_config()
    with set_current_vllm_config(config):
        if not parallel_state.model_parallel_is_initialized():
            init_distributed_environment(1, 0, f"file://{meeting_point}", 0, "gloo")
            ensure_model_parallel_initialized(1, 1)
        # Layers ask this group how many ranks there are; they send nothing while they are made.
        parallel_state.get_tp_group().world_size = ranks
        with set_default_torch_dtype(config.model_config.dtype), torch.device("meta"):
            model = initialize_model(vllm_config=config)
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def main(meeting_point: str, sizes: str, *paths: str) -> None:
    for path in paths:
        for ranks in map(int, sizes.split(",")):
            found: dict[str, object] = {"path": path, "ranks": ranks}
            try:
                found["bytes"] = made_bytes(path, ranks, meeting_point)
            except (AssertionError, ValueError) as error:
                found["refused"] = str(error)
            print(json.dumps(found), flush=True)


main(*sys.argv[1:])
