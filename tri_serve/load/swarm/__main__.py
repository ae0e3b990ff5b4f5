"""``python -m tri_serve.load.swarm``: Locust with our locustfile, whatever folder it is started in."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Locust's own main."""
    from locust.main import main as locust_main

    locustfile = Path(__file__).with_name("locustfile.py")
    sys.argv = ["locust", "--locustfile", str(locustfile), *sys.argv[1:]]
    locust_main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
