"""A solved flow to try things on: 24 frames past a cylinder at Reynolds number 114, shedding."""

from __future__ import annotations

from pathlib import Path

SHEDDING = Path(__file__).parent / "shedding.npz"
"""Solved by this project, Taylor-Hood elements on 834 vertices; no training has seen it. Read it
with :func:`rectiflow_pde.result.read_npz`."""
