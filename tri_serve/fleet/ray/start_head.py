"""``ray start`` without three servers that a private Ray has no use for.

Ray has no option for it: its client server (a way in for other machines) comes with grpc, the dashboard's process
runs even without a dashboard, and the dashboard's agent opens ports of its own. Without them a start takes less of
the processor and of memory, and fewer ports are open. The names that are replaced are private ones of Ray 2.60.
"""

from __future__ import annotations

import sys
from typing import Any

from ray._private import node, utils
from ray.scripts import scripts


def _missing(what: str) -> ImportError:
    return ImportError(f"{what} is not wanted here")


def _no_server(self: Any, **_options: object) -> None:
    self._webui_url = ""


def main() -> None:
    """As ``ray``, whose arguments it takes."""
    vars(scripts)["get_ray_client_dependency_error"] = lambda: _missing("Ray's client server")
    vars(utils)["get_dashboard_dependency_error"] = lambda: _missing("the dashboard's agent")
    node.Node.start_api_server = _no_server  # type: ignore[method-assign]
    sys.argv[0] = "ray"
    scripts.main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
