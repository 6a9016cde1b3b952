"""A folder of prepared sounds: shards of waves, the table beside them, and embedded captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.storage.preparation import SPLITS
from rectiflow.storage.shards import MANIFEST, ShardReader
from torch import Tensor

from rectiflow_audio.data.captions import Wordings
from rectiflow_audio.data.dataset import Clips
from rectiflow_audio.data.mixtures import NOTHING_PHRASES
from rectiflow_audio.data.tables import read_table
from rectiflow_audio.data.texts import TextTable, encode_texts

if TYPE_CHECKING:
    from jaxtyping import Float
    from rectiflow.conditioning import TextEncoder

METADATA = "metadata.csv"
CAPTIONS = "captions.csv"
"""Further captions of files, beside those of ``metadata.csv``."""

REJECTED = "rejected.csv"
TEXTS = "texts"
"""Folder of the embedded captions."""

COLUMNS = ("name", "source", "label", "caption", "split", "seconds", "sample_rate", "channels")
"""Columns of ``metadata.csv``; the last two are those of the source file."""

_STEP = 1 / 32_768  # of 16-bit samples


class PreparedSounds:
    """What :func:`prepare` left in a folder.

    Parameters
    ----------
    folder : str or Path
        Output of ``prepare``.
    verify : bool, default False
        Check the hash of every shard first.

    Attributes
    ----------
    records : ShardReader
        ``wave (n,)`` int16 and its ``step ()``, see :func:`unpack_wave`.
    table : list of dict
        Rows of ``metadata.csv``, one per record.

    Raises
    ------
    FileNotFoundError
        If the preparation was not finished.
    ValueError
        If table and records do not agree.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.records = ShardReader(self.folder, verify=verify)
        path = self.folder / METADATA
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder} has no {METADATA}; expected a folder that prepare finished. Run "
                "prepare again, it continues where it stopped."
            )
        self.table = read_rows(path)
        if len(self.table) != len(self.records):
            raise ValueError(
                f"{path} has {len(self.table)} rows for {len(self.records)} records; expected as "
                "many. Prepare the folder again."
            )

    def __len__(self) -> int:
        return len(self.records)

    def rows(self, split: str) -> list[int]:
        """Rows of a split: ``train``, ``valid`` or ``test``."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}.")
        return [row for row, told in enumerate(self.table) if told["split"] == split]

    def clips(self, split: str) -> Clips:
        """Sounds of a split, read when they are asked for.

        Raises
        ------
        ValueError
            If the split is empty.
        """
        rows = self.rows(split)
        if not rows:
            raise ValueError(
                f"{self.folder} has no clip in the split {split!r}, got {len(self)} clips in all; "
                "expected at least one. Give the list a column split, or prepare more clips."
            )
        told, further = [self.table[row] for row in rows], self.further
        return Clips(
            StoredWaves(self.records, rows),
            [row["caption"] for row in told],
            [row["label"] for row in told],
            [further.get(row["source"], ()) for row in told],
        )

    @cached_property
    def further(self) -> dict[str, list[str]]:
        """Captions of files beside their first, by source; prepared folders of old have none."""
        found: dict[str, list[str]] = {}
        if (self.folder / CAPTIONS).is_file():
            for _, (source, caption) in read_table(self.folder / CAPTIONS)[1]:
                found.setdefault(source, []).append(caption)
        return found

    @property
    def texts(self) -> TextTable:
        """Embedded captions, as :meth:`encode` left them.

        Raises
        ------
        FileNotFoundError
            If there are none.
        """
        if not (self.folder / TEXTS / MANIFEST).is_file():
            raise FileNotFoundError(
                f"{self.folder} has no embedded captions, got no folder {TEXTS!r} in it; expected "
                "one. Run prepare again with a text encoder: only the captions are embedded."
            )
        return TextTable.load(self.folder / TEXTS)

    def encode(self, encoder: TextEncoder, wordings: Wordings | None = None) -> TextTable:
        """Embed all captions and wordings that training may draw, and store them in the folder."""
        captions = [row["caption"] for row in self.table]
        captions += [text for texts in self.further.values() for text in texts]
        further = wordings.texts if wordings is not None else []
        return encode_texts([*captions, *further, *NOTHING_PHRASES], encoder, self.folder / TEXTS)


class StoredWaves(Sequence[Tensor]):
    """Waves of some records, float32 ``(n,)``.

    Parameters
    ----------
    records : ShardReader
        With ``wave`` and ``step``.
    rows : sequence of int
        Records to use, in this order.
    """

    def __init__(self, records: ShardReader, rows: Sequence[int]) -> None:
        self.records, self.rows = records, list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return unpack_wave(self.records[self.rows[index]])


def pack_wave(wave: Float[Tensor, " n"]) -> dict[str, Tensor]:
    """Make the record of a wave: 16-bit numbers and the size of one step.

    What came from a 16-bit file is kept exactly; any other level, also beyond 1, is kept within
    a 65,534th of its peak.

    Examples
    --------
    >>> unpack_wave(pack_wave(torch.tensor([0.5, -2.0])))
    tensor([ 0.5000, -2.0000])
    """
    steps = wave.double() / _STEP
    step = _STEP
    if float(steps.abs().max()) > 32_767 or not torch.equal(steps, steps.round()):
        step = float(wave.abs().max().double()) / 32_767
    whole = (wave.double() / step).round().to(torch.int16) if step else wave.to(torch.int16)
    return {"wave": whole, "step": torch.tensor(step)}


def unpack_wave(record: Mapping[str, Tensor]) -> Float[Tensor, " n"]:
    """Return the wave of a record, float32."""
    return record["wave"].float() * record["step"]


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """Read ``metadata.csv``.

    Raises
    ------
    ValueError
        If a column is missing, or :func:`read_table` refuses the file.
    """
    header, rows = read_table(path)
    if missing := [key for key in COLUMNS if key not in header]:
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}, got {header}; expected the "
            "metadata.csv that prepare writes. Prepare the folder again."
        )
    return [dict(zip(header, cells, strict=True)) for _, cells in rows]
