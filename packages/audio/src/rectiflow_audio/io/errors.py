"""The one error of sound files."""

from __future__ import annotations

from pathlib import Path


class AudioFileError(ValueError):
    """A sound file could not be used.

    Parameters
    ----------
    path : str or Path
        The file.
    found : str
        What is in it, as a clause ("it ends at byte 512").
    expected : str
        What was needed.
    hint : str
        What to do about it, a sentence.
    """

    def __init__(self, path: str | Path, found: str, expected: str, hint: str) -> None:
        super().__init__(f"{path}: {found}; expected {expected}. {hint}")
        self.path, self.found, self.expected, self.hint = Path(path), found, expected, hint

    @property
    def reason(self) -> str:
        """What was found and what was expected, without the path: a cell of a table."""
        return f"{self.found}; expected {self.expected}"

    def __reduce__(self) -> tuple[type[AudioFileError], tuple[Path, str, str, str]]:
        return AudioFileError, (self.path, self.found, self.expected, self.hint)
