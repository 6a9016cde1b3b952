"""A folder of prepared sounds: shards of waves, the table beside them, and embedded captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.storage.prepared import Prepared
from rectiflow.storage.reading import read_rows
from rectiflow.storage.shards import MANIFEST, ShardReader
from torch import Tensor

from rectiflow_audio.data.captions import Wordings
from rectiflow_audio.data.dataset import Clips
from rectiflow_audio.data.mixtures import NOTHING_PHRASES
from rectiflow_audio.data.texts import TextTable, encode_texts

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from rectiflow.conditioning import TextEncoder

CAPTIONS = "captions.csv"
"""Further captions of files, beside those of ``metadata.csv``."""

TEXTS = "texts"
"""Folder of the embedded captions."""

COLUMNS: dict[str, type] = {
    **dict.fromkeys(("name", "source", "label", "caption", "split"), str),
    **{"seconds": float, "sample_rate": int, "channels": int},
}
"""Columns of ``metadata.csv``: ``source`` is a path, the rate and the channels are the file's."""

_STEP = 1 / 32_768  # of 16-bit samples


class PreparedSounds(Prepared):
    """What :func:`prepare` left in a folder.

    Records hold ``wave (n,)`` int16 and its ``step ()``, see :func:`unpack_wave`.
    """

    columns = COLUMNS
    unit = "clip"

    def clips(self, split: str) -> Clips:
        """Sounds of a split, read when they are asked for.

        Raises
        ------
        ValueError
            If the split is empty.
        """
        rows = self.some_rows(split)
        return Clips(
            StoredWaves(self.records, rows),
            self.table["caption"][rows],
            self.table["label"][rows],
            [self.further.get(source, ()) for source in self.table["source"][rows]]
            if self.further
            else (),
        )

    @cached_property
    def further(self) -> dict[str, list[str]]:
        """Captions of files beside their first, by source; prepared folders of old have none."""
        found: dict[str, list[str]] = {}
        if (self.folder / CAPTIONS).is_file():
            for _, row in read_rows(self.folder / CAPTIONS, ("source", "caption")):
                found.setdefault(row["source"], []).append(row["caption"])
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
        captions = self.table["caption"].tolist()
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

    def __init__(
        self, records: ShardReader, rows: Sequence[int] | Int[np.ndarray, " rows"]
    ) -> None:
        self.records, self.rows = records, np.asarray(rows, np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return unpack_wave(self.records[int(self.rows[index])])


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
