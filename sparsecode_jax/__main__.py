"""``python -m sparsecode_jax``: the command line without its installed entry point."""

import sys

from sparsecode_jax.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
