"""``python -m tri_serve.gateway``."""

from tri_serve.gateway.main import main

if __name__ == "__main__":
    main()
