"""Keeps ``uv.lock`` as git holds it: after uv has installed the workspace, no address is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NeutralLock(BuildHookInterface):
    """Rewrite the lock when this member is installed for editing, which uv does last.

    uv writes the addresses of the index it used into the lock. ``cache-keys`` in this member's
    project file make every ``uv sync`` that did so install the member again, which ends up here.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Run ``tools/neutral_lock.py --write``; outside a checkout there is nothing to do."""
        tool = Path(self.root).parent / "tools" / "neutral_lock.py"
        if version == "editable" and tool.is_file():
            subprocess.run([sys.executable, tool, "--write"], check=True)
