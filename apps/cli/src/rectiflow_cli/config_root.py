"""Where the Hydra configs are: the one place that computes that path."""

from __future__ import annotations

from pathlib import Path


def config_root() -> Path:
    """Return the folder with ``common/`` and one folder per domain.

    An installed wheel carries a copy inside the package; an editable install reads the live
    top-level ``configs/`` of the workspace.
    """
    here = Path(__file__).resolve()
    packaged = here.parent / "configs"
    return packaged if packaged.is_dir() else here.parents[4] / "configs"
