"""Being a client of a Ray, bounded in time; what stands in the way is said in one line."""

from __future__ import annotations

import logging
import re
import socket
import time

import ray
from ray import serve
from ray.exceptions import RayError

from tri_serve.errors import FleetError


def connect(address: str, patience: float) -> None:
    """Be a client of the Ray at ``address``, with Serve running there.

    Whether something listens there is found within ``patience`` seconds: Ray's own attempts can take minutes.
    Raises FleetError.
    """
    if address != "auto":
        _until_listening(address, patience)
    try:
        ray.init(
            address=address,
            namespace="tri-serve",
            log_to_driver=False,
            logging_level=logging.WARNING,
            configure_logging=True,
        )
        start_serve()
    except (OSError, RayError, RuntimeError, ValueError) as error:
        raise FleetError(f"cannot use the Ray at {address}: {in_one_line(str(error))}") from error


def start_serve() -> None:
    """Have Serve running; if it is, nothing of it is changed."""
    # No traffic of ours passes through Serve: clients come to the gateways.
    serve.start(proxy_location="Disabled")


def _until_listening(address: str, patience: float) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + patience
    while True:
        try:
            probe = socket.create_connection((host.strip("[]"), int(port)), timeout=2.0)
        except OSError as error:
            if time.monotonic() > deadline:
                reason = error.strerror or str(error)
                raise FleetError(
                    f"cannot use the Ray at {address}: nothing answers there ({reason})"
                ) from error
            time.sleep(0.1)
        else:
            probe.close()
            return


def in_one_line(text: str) -> str:
    """Ray's explanations run over many lines, some of them coloured."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
