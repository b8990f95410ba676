#!/usr/bin/env python3
"""Starts the comparison: ``python bench/peers/run.py --dataset minilm``. See README.md beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers.cli import main  # noqa: E402  (the path must be there first)

if __name__ == "__main__":
    sys.exit(main())
