"""What a plan is made from: the model as it lies in its files, and the device that it is to run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tri_serve.checkpoint.architecture import Architecture
from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.checkpoint.sizes import TensorSize


@dataclass(frozen=True)
class ModelFacts:
    """What is to be served."""

    architecture: Architecture
    quantization: QuantizationFacts
    tensors: Mapping[str, TensorSize]
    """Every tensor that an engine loads, by name."""
    origin: str
    """For people: ``checkpoint /path``, or ``from preset tri-21b-awq`` where there is no checkpoint yet."""
    from_checkpoint: bool
    remote_code: bool = False
    """Whether config.json wants Python code of the checkpoint to be run."""
    remarks: tuple[str, ...] = ()
    """What the user should know of these facts, such as that a model card disagrees with them."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors, as they lie in the files."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True)
class Gpu:
    """One entry of the catalogue, gpus.yaml: a kind of device."""

    name: str
    """How the command line names it: ``l4``, ``a100-40``, ``cpu``."""
    title: str
    """For people: ``NVIDIA L4 24 GB``."""
    memory: int
    """Bytes that a program can have on an idle device: what the driver reports as total."""
    bandwidth: float
    """Bytes a second between the device's memory and its cores."""
    flops: float
    """Dense bf16 floating-point operations a second, without sparsity."""
    compute_capability: tuple[int, int] | None
    """As (8, 9); none for the CPU."""
    link: float | None = None
    """Bytes a second to another device of the same machine, in each direction; none: not known."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each figure comes from, by the figure's name."""

    @property
    def is_cpu(self) -> bool:
        return self.compute_capability is None


@dataclass(frozen=True)
class PlanDevice:
    """The devices that engines would have: so many GPUs of one kind."""

    gpu: Gpu
    count: int = 1
    """How many of them there are, for all engines together; one takes ``engine.tensor_parallel_size`` of them. Of
    the catalogue's there are as many as are wanted."""
    total: int | None = None
    """Bytes of one, as its driver says; none: the catalogue's."""
    free: int | None = None
    """Bytes that nobody uses now, on the fullest of them; none: not looked at, all of it."""
    driver_cuda: tuple[int, int] | None = None
    """The newest CUDA that the driver takes, as (13, 0); none: not looked at."""
    driver: str | None = None
    """The driver's own version; none: not looked at."""
    seen: Literal["catalogue", "this machine"] = "catalogue"

    @property
    def total_bytes(self) -> int:
        """0: not known."""
        return self.gpu.memory if self.total is None else self.total

    @property
    def memory_known(self) -> bool:
        """Whether its driver tells how much memory it has; for memory that is shared with the CPU it may not."""
        return self.total_bytes > 0

    @property
    def free_bytes(self) -> int:
        return self.total_bytes if self.free is None else self.free
