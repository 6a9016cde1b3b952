"""A mesh to try things on.

The chair is "Chair 1" of the House Interior Pack by Quaternius, who publishes his packs under
CC0 1.0; its colours were left out.
"""

from pathlib import Path

CHAIR = Path(__file__).parent / "chair.glb"
"""A closed low-poly chair of 10 overlapping parts."""
