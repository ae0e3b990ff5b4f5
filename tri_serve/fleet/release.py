"""Where a release keeps its things, and which releases there are."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tri_serve.errors import FleetError
from tri_serve.places import state_dir

LOG_BYTES = 16 * 1024 * 1024
"""Each log keeps this much, and as much again in <name>.log.1."""
_SOCKET_PATH_LIMIT = 107
"""sun_path of Linux holds 108 bytes, the last of them NUL (unix(7))."""
_LONGEST_SOCKET_NAME = "admin-999999.sock"


@dataclass(frozen=True)
class ReleasePaths:
    """The folder of one release. Everything in it is the user's alone: it holds keys."""

    root: Path

    @property
    def release(self) -> str:
        """The release's name."""
        return self.root.name

    @property
    def state(self) -> Path:
        """What runs now, as the supervisor last wrote it. Absent: nothing runs."""
        return self.root / "state.json"

    @property
    def desired(self) -> Path:
        """What a starting supervisor is asked to run."""
        return self.root / "desired.json"

    @property
    def spec(self) -> Path:
        """The spec as last applied."""
        return self.root / "spec.yaml"

    @property
    def cluster(self) -> Path:
        """What the release remembers of the cluster that it runs on; see cluster_record.py."""
        return self.root / "cluster.json"

    @property
    def identity(self) -> Path:
        """What tells the release from others of its name on a cluster; kept over `down`."""
        return self.root / "identity"

    @property
    def gateway_config(self) -> Path:
        """What the gateway process was last told."""
        return self.root / "gateway.json"

    @property
    def gateway_order(self) -> Path:
        """On a node of a cluster: what its gateway is to be."""
        return self.root / "gateway-order.json"

    @property
    def timings(self) -> Path:
        """How long the last start took; kept over `down`."""
        return self.root / "timings.json"

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.root / "logs"

    def log(self, name: str) -> Path:
        """The log of a replica, ``gateway`` or ``supervisor``."""
        return self.logs / f"{name}.log"

    @property
    def sockets(self) -> Path:
        """Folder of the UNIX sockets: the release's own, unless its path is too long for a socket."""
        if len(os.fsencode(self.root / _LONGEST_SOCKET_NAME)) <= _SOCKET_PATH_LIMIT:
            return self.root
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        base = Path(runtime) / "tri-serve" if runtime and Path(runtime).is_absolute() else None
        if base is None or len(os.fsencode(base / digest / _LONGEST_SOCKET_NAME)) > _SOCKET_PATH_LIMIT:
            base = Path(tempfile.gettempdir()) / f"tri-serve-{os.getuid()}"
        return base / digest

    @property
    def control_socket(self) -> Path:
        """Where the supervisor takes commands."""
        return self.sockets / "control.sock"

    def admin_socket(self, generation: int) -> Path:
        """The control socket of one gateway process; two may live while one takes over from the other."""
        return self.sockets / f"admin-{generation}.sock"

    def create(self) -> None:
        """Make the folders, readable by the user alone. Raises FleetError if another user owns one."""
        folders = [self.root, self.logs]
        if (
            self.sockets != self.root
        ):  # in a place that others may write to: the level above must be ours, too
            folders += [self.sockets.parent, self.sockets]
        for folder in folders:
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(exist_ok=True, mode=0o700)
            # Through a link that another user made, the sockets could later lie elsewhere.
            outside = self.sockets != self.root and folder in (self.sockets.parent, self.sockets)
            if outside and folder.is_symlink():
                raise FleetError(f"{folder} is a link", hint="set XDG_RUNTIME_DIR to a place of yours")
            if folder.stat().st_uid != os.getuid():
                raise FleetError(
                    f"{folder} belongs to another user", hint="set XDG_STATE_HOME to a place of yours"
                )
            folder.chmod(0o700)

    def discard_sockets(self) -> None:
        """Remove what `create` made outside the release's folder, as far as it is empty."""
        for socket in self.sockets.glob("*.sock"):
            socket.unlink(missing_ok=True)
        if self.sockets != self.root:
            with contextlib.suppress(OSError):  # not there, or another release's socket is in it
                self.sockets.rmdir()
                self.sockets.parent.rmdir()


def release_paths(release: str, environ: Mapping[str, str] = os.environ) -> ReleasePaths:
    """The paths of a release, which need not exist."""
    return ReleasePaths(state_dir(environ) / "releases" / release)


def known_releases(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Releases that have a state, running or not, and those that may run on a cluster."""
    folder = state_dir(environ) / "releases"
    files = (*folder.glob("*/state.json"), *folder.glob("*/cluster.json"))
    return tuple(sorted({path.parent.name for path in files}))


@contextmanager
def exclusive(paths: ReleasePaths, name: str, busy: str) -> Iterator[None]:
    """Hold the release's lock ``name``; raises FleetError(``busy``) if somebody else does."""
    descriptor = os.open(paths.root / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FleetError(busy) from error
        yield
    finally:
        os.close(descriptor)
