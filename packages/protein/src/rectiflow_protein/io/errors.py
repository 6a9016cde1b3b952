"""The one error of files that are not what they should be."""

from __future__ import annotations

from pathlib import Path


class StructureError(ValueError):
    """A structure file could not be used.

    Parameters
    ----------
    path : str or Path
        The file.
    found : str
        What is in it, as a clause ("it holds only DNA").
    expected : str
        What was needed.
    hint : str
        What to do about it, a sentence.
    """

    def __init__(self, path: str | Path, found: str, expected: str, hint: str) -> None:
        super().__init__(f"{path}: {found}; expected {expected}. {hint}")
        self.path, self.found, self.expected, self.hint = Path(path), found, expected, hint

    def __reduce__(self) -> tuple[type[StructureError], tuple[Path, str, str, str]]:
        return StructureError, (self.path, self.found, self.expected, self.hint)
