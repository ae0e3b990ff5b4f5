"""What ``up`` and ``scale`` look at before they touch anything, and how long things took."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tri_serve.checkpoint.resolve import is_offline, is_pulled
from tri_serve.cli.progress import Steps, steps
from tri_serve.cli.pulling import pull_with_progress
from tri_serve.fleet.preflight import Replaced, preflight, preflight_for_cluster
from tri_serve.launch.environment import find_environment
from tri_serve.launch.install import install_environment
from tri_serve.launch.plugins import install_plugin, plugin_for, require_plugin
from tri_serve.places import cache_dir, data_dir

if TYPE_CHECKING:
    from tri_serve.checkpoint.ahead import Ahead
    from tri_serve.fleet.desired import Desired
    from tri_serve.fleet.detached import AppliedChanges
    from tri_serve.fleet.release import ReleasePaths


@dataclass
class Times:
    """Seconds of one start, told apart by whose they are."""

    begun: float
    """Monotonic time at which this process began: its imports count as ours."""
    pull: float = 0.0
    """Fetching the checkpoint, if it was not there."""
    install: float = 0.0
    ray: float = 0.0
    """Until Ray runs and its agents have begun to start an engine; 0 without Ray."""
    engine: float = 0.0

    @property
    def total(self) -> float:
        """So far."""
        return time.monotonic() - self.begun

    @property
    def own(self) -> float:
        """Beyond what Ray and the engine needed, and beyond what happens once: the checkpoint, the environment."""
        return max(0.0, self.total - self.pull - self.install - self.ray - self.engine)


def process_began() -> float:
    """When this process was started, on the monotonic clock (which counts from boot, as /proc does)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    age = uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - max(0.0, age)


def check(
    desired: Desired,
    paths: ReleasePaths,
    times: Times,
    *,
    running: AppliedChanges | None = None,
    engines: int = 0,
    view: Steps | None = None,
) -> None:
    """Everything that can be checked and prepared before anything starts.

    ``running``: what would change of a fleet that runs already, with so many living ``engines``.
    """
    if view is None:
        with steps() as view:
            check(desired, paths, times, running=running, engines=engines, view=view)
            return
    spec = desired.spec
    if spec.fleet.target == "ray":  # what engines need has to be on the nodes, and is looked for there
        preflight_for_cluster(spec, environment_hashes=desired.environment_hashes, state=paths.root)
        return
    view.show("checkpoint", spec.model.source)
    missing = not is_pulled(spec.model, cache_dir()) and not is_offline(os.environ)

    def fetch() -> None:
        before = time.monotonic()
        pull_with_progress(spec.model, view)
        times.pull = time.monotonic() - before

    def look() -> Ahead:
        from tri_serve.checkpoint.ahead import look_ahead

        view.show("checkpoint", f"{spec.model.source}: asking the hub what there is")
        return look_ahead(spec.model)

    result = preflight(
        spec,
        environment_hashes=desired.environment_hashes,
        state=paths.root,
        # Its own port counts as taken while it runs.
        new_listener=running is None or running.running.gateway.port != spec.gateway.port,
        # An autoscaled fleet has to find room whenever its load asks for it.
        new_engines=None if running is None else max(0, spec.fleet.most_replicas - engines),
        replaced=Replaced(running.running, engines) if running and running.engines else None,
        ahead=look if missing else None,
        fetch=fetch if missing else None,
    )
    for number, warning in enumerate(result.warnings, 1):
        view.show("warning" if number == 1 else f"warning-{number}", warning, "left")
    facts = result.checkpoint
    size = facts.total_bytes
    amount = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
    method = facts.quantization.method
    view.show(
        "checkpoint",
        f"{spec.model.source}: {facts.parameters / 1e6:,.1f}M parameters, {amount}, "
        + ("not quantised" if method == "none" else f"{method} {facts.quantization.bits}-bit"),
        "done",
    )
    engine = f"{spec.engine.kind} {spec.engine.version} on {result.device}"
    if result.install:
        before = time.monotonic()
        view.show("environment", f"{engine}: installing, once")
        install_environment(
            spec.engine.version,
            result.device,
            data_dir(),
            lambda line: view.show("environment", line),
            kind=spec.engine.kind,
        )
        times.install = time.monotonic() - before
    if (plugin := plugin_for(spec.engine.kind, spec.engine.version, method)) is not None:
        environment = find_environment(spec.engine, data_dir(), result.device)
        if environment.managed:
            before = time.monotonic()
            install_plugin(environment, plugin, lambda line: view.show("environment", line))
            times.install += time.monotonic() - before
        else:
            require_plugin(environment, plugin)
    view.show("environment", engine, "done")
