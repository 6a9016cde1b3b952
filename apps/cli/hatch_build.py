"""Carry the top-level ``configs/`` inside the wheel and the sdist."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfigsHook(BuildHookInterface):
    """Copy ``configs/`` into the package; an sdist already holds the copy."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Register the folder, except for editable installs, which read the live one."""
        if version == "editable":
            return
        configs = Path(self.root).parents[1] / "configs"
        if configs.is_dir():
            inside = {"wheel": "rectiflow_cli/configs", "sdist": "src/rectiflow_cli/configs"}
            build_data["force_include"][str(configs)] = inside[self.target_name]
