"""Lists of mixtures that others publish results on.

Each is a CSV file whose columns are told by a :class:`ListForm`. The sounds themselves are not
part of the lists: get them from where the list's authors say.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rectiflow_audio.data.tables import find_file, is_file, read_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MixtureRow:
    """One mixture of a list.

    Attributes
    ----------
    target : Path or None
        The sound to be found; None where the set has no references.
    interferers : tuple of Path
        The other sounds. Empty where the mixture is a file.
    query : str
        What to ask for.
    snr : float or None
        Target over all interferers in decibel; None where the list does not tell.
    labels : tuple of str
        Classes of the target, where it has any.
    mixture : Path or None
        The mixture itself, where it is a file.
    """

    target: Path | None
    interferers: tuple[Path, ...]
    query: str
    snr: float | None = None
    labels: tuple[str, ...] = ()
    mixture: Path | None = None


@dataclass(frozen=True)
class ListForm:
    """Which column of a list holds what.

    Parameters
    ----------
    columns : tuple of str
        All columns in their order. A name may come twice.
    query : str
        Column of the query.
    target, mixture : str, optional
        Columns of files.
    interferers : tuple of str
        Columns of files.
    snr : str, optional
        Column of the signal-to-noise ratio in decibel.
    label : str, optional
        Column of the target's class.
    index : str, optional
        Column that numbers the mixtures that were prepared by the list's authors.
    suffix : str
        What the names of files lack.
    root : str
        What the paths of files begin with, and the folder given to :meth:`read` stands for.
    by_position : bool
        Take the columns by their place whatever the header calls them.
    """

    columns: tuple[str, ...]
    query: str
    target: str | None = None
    interferers: tuple[str, ...] = ()
    mixture: str | None = None
    snr: str | None = None
    label: str | None = None
    index: str | None = None
    suffix: str = ""
    root: str = ""
    by_position: bool = False

    def read(
        self,
        path: Path | str,
        folder: Path | str,
        *,
        prepared: bool = False,
        skip_missing: bool = False,
    ) -> list[MixtureRow]:
        """Read a list and find its files.

        Parameters
        ----------
        path : Path or str
            The CSV file.
        folder : Path or str
            Where the sounds are.
        prepared : bool, default False
            The folder holds ``mixture-{index}.wav`` and ``segment-{index}.wav``, as AudioSep's
            authors hand them out, instead of the clips that the list names.
        skip_missing : bool, default False
            Leave out rows whose files are not there, with a warning: clips that came from the
            web get lost.

        Raises
        ------
        FileNotFoundError
            If the list is not there, or sounds are not.
        ValueError
            If a column, a query or a number is missing, no row is left, or :func:`read_table`
            refuses the list.
        """
        path, folder = Path(path), Path(folder)
        if prepared and self.index is None:
            raise ValueError(
                f"{path} has no numbered mixtures, got prepared=True; expected a form with an "
                "index column. Give the folder of clips."
            )
        rows, missing = [], []
        for number, cells in self._cells(path):
            row = self._row(cells, folder, prepared, f"{path}, line {number}")
            absent = [file for file in files_of(row) if not is_file(file)]
            missing += absent[:1]
            if not absent:
                rows.append(row)
        if missing and not skip_missing:
            shown = ", ".join(str(file) for file in missing[:3])
            raise FileNotFoundError(
                f"{len(missing)} mixtures of {path} lack sounds, got no {shown}; expected them "
                f"under {folder}. Download them, or pass skip_missing=True to leave them out."
            )
        if missing:
            message = "%d of %d mixtures of %s lack sounds and are left out, such as %s"
            log.warning(message, len(missing), len(missing) + len(rows), path, missing[0])
        if not rows:
            raise ValueError(f"{path} lists no mixture that can be used; expected at least one.")
        return rows

    def _cells(self, path: Path) -> Iterator[tuple[int, Mapping[str, list[str]]]]:
        """Yield the line's number and its cells by column."""
        header, rows = read_table(path)
        places = self._places(header, path)
        for line, cells in rows:
            yield line, {name: [cells[i] for i in found] for name, found in places.items()}

    def _places(self, header: Sequence[str], path: Path) -> dict[str, list[int]]:
        """Find each column; one that comes twice has two places."""
        names = self.columns[: len(header)] if self.by_position else header
        places: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            places.setdefault(name, []).append(place)
        lacking = [
            name
            for name in dict.fromkeys(self.columns)
            if len(places.get(name, ())) < self.columns.count(name)
        ]
        if lacking:
            raise ValueError(
                f"{path} lacks columns {lacking}, got {list(header)}; expected "
                f"{list(self.columns)}. Is it the list of another set?"
            )
        return places

    def _row(
        self, cells: Mapping[str, list[str]], folder: Path, prepared: bool, where: str
    ) -> MixtureRow:
        def file(name: str) -> Path:
            return find_file(folder, name.removeprefix(self.root) + self.suffix)

        query = cells[self.query][0].strip()
        if not query:
            raise ValueError(f"{where} has no query in column {self.query!r}; expected words.")
        labels = tuple(map(str.strip, cells[self.label])) if self.label else ()
        if prepared and self.index:
            index = cells[self.index][0].strip()
            target, mixture = folder / f"segment-{index}.wav", folder / f"mixture-{index}.wav"
            return MixtureRow(target, (), query, None, labels, mixture)
        return MixtureRow(
            file(cells[self.target][0]) if self.target else None,
            tuple(file(name) for column in self.interferers for name in cells[column]),
            query,
            self._number(cells[self.snr][0], where) if self.snr else None,
            labels,
            file(cells[self.mixture][0]) if self.mixture else None,
        )

    def _number(self, text: str, where: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"{where} has no number in column {self.snr!r}, got {text!r}; expected decibel."
            )
        return number


def files_of(row: MixtureRow) -> list[Path]:
    """Return every file that a row needs."""
    return [f for f in (row.target, row.mixture, *row.interferers) if f is not None]


AUDIOCAPS = ListForm(
    ("idx", "caption", "labels", "src_wav", "noise_wav"),
    query="caption",
    target="src_wav",
    interferers=("noise_wav",),
    index="idx",
)
"""AudioCaps by caption, 4,820 rows; the labels of a clip are one text and no class."""

AUDIOCAPS_LABELS = replace(AUDIOCAPS, query="labels")
"""The same mixtures, asked for by their labels."""

CLOTHO = ListForm(
    ("idx", "caption", "src_wav", "noise_wav1", "noise_wav1"),
    query="caption",
    target="src_wav",
    interferers=("noise_wav1",),
    index="idx",
)
"""Clotho by caption, 5,225 rows with two interferers, whose columns have one name."""

ESC50 = ListForm(
    ("idx", "caption", "src_wav", "noise_wav"),
    query="caption",
    target="src_wav",
    interferers=("noise_wav",),
    label="caption",
    index="idx",
)
"""ESC-50 by class, 2,000 rows."""

MUSIC = ESC50
"""MUSIC by instrument, 5,004 rows of the form of ESC-50; published as the mean of class means."""

VGGSOUND = ListForm(
    ("file_id", "mix_wav", "s0_wav", "s0_text", "s1_wav", "s1_text"),
    query="s0_text",
    target="s0_wav",
    mixture="mix_wav",
    label="s0_text",
)
"""VGGSound by label, 1,000 rows; the folder is the one that ``data/mix_wav`` lies in."""

AUDIOSET = ListForm(
    ("idx", "caption", "src_wav", "noise_wav"),
    query="caption",
    target="src_wav",
    mixture="noise_wav",  # so it is called, but it holds the mixtures
    label="caption",
    root="evaluation/data/audioset/",
)
"""AudioSet by class, 5,270 rows; published as the mean over 527 classes of their medians."""

DCASE2024 = ListForm(
    ("source", "noise", "snr", "caption"),
    query="caption",
    target="source",
    interferers=("noise",),
    snr="snr",
    suffix=".wav",
    by_position=True,
)
"""DCASE 2024 Task 9, synthetic validation, 3,000 rows of 1,000 clips."""

FORMS = {
    "audiocaps": AUDIOCAPS,
    "audiocaps-labels": AUDIOCAPS_LABELS,
    "audioset": AUDIOSET,
    "clotho": CLOTHO,
    "dcase2024": DCASE2024,
    "esc50": ESC50,
    "music": MUSIC,
    "vggsound": VGGSOUND,
}
"""Every form by the name of its set."""
