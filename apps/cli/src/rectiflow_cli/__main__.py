"""Run ``rectiflow`` by ``python -m rectiflow_cli``, or this file as data-parallel training does."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if not __package__:
        sys.path.pop(0)  # this folder, whose modules are no top-level ones
    from rectiflow_cli.main import main

    sys.exit(main())
