"""``python -m rectiflow_cli`` is ``rectiflow``; data-parallel training runs this file as a script."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if not __package__:
        sys.path.pop(0)  # this folder, whose modules are no top-level ones
    from rectiflow_cli.main import main

    sys.exit(main())
