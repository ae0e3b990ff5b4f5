"""What a fleet on this machine is made of: the device, the engine environment, the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tri_serve.checkpoint.resolve import resolve_source
from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.device import Device, detect_device, gpus_of, visible_gpus
from tri_serve.launch.environment import EngineEnvironment, find_environment
from tri_serve.launch.vllm import vllm_launch
from tri_serve.places import cache_dir, data_dir
from tri_serve.spec.models import Spec

ENGINE_HOST = "127.0.0.1"
"""Engines listen here alone: clients come through the gateway."""


@dataclass(frozen=True)
class Prepared:
    """A spec with everything that its engines are started from."""

    spec: Spec
    device: Device
    environment: EngineEnvironment
    checkpoint: Path

    def launch(
        self,
        *,
        port: int,
        api_key: str,
        host: str = ENGINE_HOST,
        gpus: Sequence[str] | None = None,
        replicas_here: int | None = None,
    ) -> LaunchConfig:
        """The launch config of one engine; ``gpus`` and ``replicas_here`` as ``vllm_launch`` has them."""
        return vllm_launch(
            self.spec,
            checkpoint=self.checkpoint,
            environment=self.environment,
            device=self.device,
            host=host,
            port=port,
            api_key=api_key,
            cores=len(os.sched_getaffinity(0)),
            replicas_here=replicas_here,
            gpus=gpus,
        )

    def gpus_of(self, index: int) -> tuple[str, ...] | None:
        """The GPUs of replica ``index`` (from 0) on this machine; None on the CPU.

        Raises ResourceError if there are not that many.
        """
        if self.device == "cpu":
            return None
        return gpus_of(index, self.spec.engine.tensor_parallel_size, fleet_gpus(self.spec))

    def check_launch(self) -> None:
        """Raises LaunchError if no engine could be started from this, whatever its port."""
        self.launch(port=0, api_key="")


def fleet_gpus(spec: Spec) -> tuple[str, ...]:
    """The GPUs of this machine that the fleet may use; CUDA_VISIBLE_DEVICES in ``engine.env`` counts too."""
    return visible_gpus(os.environ | spec.engine.env)


def prepare(spec: Spec) -> Prepared:
    """Find everything. Blocks: a tiny checkpoint is derived when it is first wanted, in a few seconds.

    Raises EngineEnvironmentError, CheckpointError, LaunchError, ResourceError.
    """
    device = detect_device(spec.engine.device)
    prepared = Prepared(
        spec=spec,
        device=device,
        environment=find_environment(spec.engine, data_dir(), device),
        checkpoint=resolve_source(spec.model, cache_dir()),
    )
    prepared.check_launch()
    return prepared
