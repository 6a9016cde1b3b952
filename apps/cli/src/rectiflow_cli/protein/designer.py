"""Any sequence designer that is a command."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    from rectiflow_protein.io import Backbone

_REQUIRED = ("{pdb}", "{fasta}")


@dataclass(frozen=True)
class CommandDesigner:
    """Designs sequences by a command of the user's.

    Parameters
    ----------
    command : str
        Words as in a shell, without one being started. ``{pdb}`` is the file to read,
        ``{fasta}`` the file to write, with the designed sequences and no other; ``{num}``,
        ``{temperature}`` and ``{seed}`` are filled in where they stand.
    """

    command: str

    def __post_init__(self) -> None:
        absent = [name for name in _REQUIRED if name not in self.command]
        if absent:
            raise UsageError(
                f"--designer-command lacks {' and '.join(absent)}, got {self.command!r}; expected "
                "a command that reads {pdb} and writes {fasta}."
            )

    def design(
        self, backbone: Backbone, num_sequences: int, *, temperature: float, seed: int
    ) -> list[str]:
        """Return what the command wrote."""
        from rectiflow_protein.designability import write_for_design
        from rectiflow_protein.io import read_fasta

        with tempfile.TemporaryDirectory() as scratch:
            pdb = write_for_design(Path(scratch) / "backbone.pdb", backbone)
            fasta = Path(scratch) / "designed.fasta"
            values = {
                "pdb": pdb,
                "fasta": fasta,
                "num": num_sequences,
                "temperature": temperature,
                "seed": seed,
            }
            self._run(values)
            if not fasta.is_file():
                raise UsageError(
                    f"the designer wrote no {{fasta}} for {backbone.name}; expected "
                    f"{num_sequences} sequences there. Does the command use the file's name?"
                )
            return [sequence for _, sequence in read_fasta(fasta)]

    def _run(self, values: dict[str, object]) -> None:
        words = [_filled(word, values) for word in shlex.split(self.command)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise UsageError(f"there is no program {words[0]!r} to design with.") from error
        if done.returncode:
            raise UsageError(
                f"the designer failed with exit code {done.returncode}, got "
                f"{done.stderr.strip()[-300:]!r}; expected 0. Run it by hand: {shlex.join(words)}"
            )


def _filled(word: str, values: dict[str, object]) -> str:
    """Fill the names in; other braces stay as they are."""
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", str(value))
    return word
