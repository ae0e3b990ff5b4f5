"""``python -m tri_serve.mock`` is ``tri-serve-mock-engine``."""

from tri_serve.mock.main import main

main()
