"""Read mmCIF and BinaryCIF files: one table of atoms, whichever of its columns are there."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rectiflow_protein.io.atoms import Atom, Parsed, integer_at, number_at, positive
from rectiflow_protein.io.cif_tokens import Row, rows
from rectiflow_protein.io.errors import StructureError
from rectiflow_protein.io.pdb import TRAJECTORY
from rectiflow_protein.io.residue_names import ATOM_NAMES, is_amino, is_known

_RESOLUTIONS = {"refine": "ls_d_res_high", "em_3d_reconstruction": "resolution"}
_TABLES = ("atom_site", *_RESOLUTIONS, "struct", "refln")
_MISSING = ("?", ".", "")
_UNFOLDING = 16  # times the bound of a file: what BinaryCIF may unfold to


class Site(NamedTuple):
    """An atom as its row says, ``""`` where the row has ``?``, ``.`` or no such column."""

    group: str
    name: str
    alt: str
    residue: str
    chain: str
    unit: str
    number: str
    code: str
    x: str
    y: str
    z: str
    occupancy: str
    model: str
    line: int


_COLUMNS: dict[str, tuple[str, ...]] = {
    "group": ("group_pdb",),
    "name": ("label_atom_id", "auth_atom_id"),
    "alt": ("label_alt_id",),
    "residue": ("auth_comp_id", "label_comp_id"),
    "chain": ("auth_asym_id", "label_asym_id"),
    "unit": ("label_asym_id",),
    "number": ("auth_seq_id", "label_seq_id"),
    "code": ("pdbx_pdb_ins_code",),
    "x": ("cartn_x",),
    "y": ("cartn_y",),
    "z": ("cartn_z",),
    "occupancy": ("occupancy",),
    "model": ("pdbx_pdb_model_num",),
}  # columns of the file by field, the first that says something wins
_NEEDED = ("name", "residue", "number", "x", "y", "z")


def parse_cif(path: Path, content: bytes) -> Parsed:
    """Read an mmCIF file: its first data block that has atoms."""
    return _parsed(path, rows(path, content, _TABLES))


def parse_bcif(path: Path, content: bytes, max_bytes: int) -> Parsed:
    """Read a BinaryCIF file: its first data block that has atoms."""
    try:
        found = list(_binary_rows(content, _UNFOLDING * max_bytes))
    except Exception as error:
        # The decoder raises anything from IndexError to MemoryError on damaged files.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StructureError(
            path,
            f"it cannot be read as bcif ({type(error).__name__}: {reason[:120]})",
            "a BinaryCIF file",
            "Is it truncated, or does the suffix lie?",
        ) from error
    return _parsed(path, found)


def _parsed(path: Path, found: Iterable[Row]) -> Parsed:
    models: dict[str, list[Site]] = defaultdict(list)
    residues: dict[str, dict[str, None]] = defaultdict(dict)
    blocks: dict[str, None] = {}
    resolutions: list[float | None] = []
    trajectory = reflections = False
    for row in found:
        if row.table == "refln":
            reflections = True
        elif row.table == "struct" and "title" in row.columns:
            trajectory |= TRAJECTORY in row.cells[row.columns.index("title")]
        elif row.table in _RESOLUTIONS and _RESOLUTIONS[row.table] in row.columns:
            resolutions.append(positive(row.cells[row.columns.index(_RESOLUTIONS[row.table])]))
        elif row.table == "atom_site":
            blocks[row.block] = None
            if len(blocks) > 1:
                continue
            site = _site(path, row)
            residues[site.chain][site.residue] = None
            if site.name in ATOM_NAMES:
                models[site.model].append(site)
    if not blocks:
        what = "reflections (structure factors) and no atom" if reflections else "no atom"
        raise StructureError(
            path,
            f"it holds {what}",
            "a table _atom_site",
            "Fetch the file that holds the coordinates.",
        )
    return Parsed(
        models=list(models.values()),
        atoms=lambda sites: _atoms(path, sites),
        residues=residues,
        resolution=next((value for value in resolutions if value is not None), None),
        trajectory=trajectory,
        dropped=tuple(f"block {name} holds another structure" for name in [*blocks][1:]),
    )


def _site(path: Path, row: Row) -> Site:
    places = _places(row.columns)
    missing = [_COLUMNS[field][0] for field, place in zip(_COLUMNS, places, strict=True)
               if field in _NEEDED and not place]  # fmt: skip
    if missing:
        raise StructureError(
            path,
            f"its atoms have no {', '.join(missing)}",
            "names, residue numbers and coordinates in the table _atom_site",
            "Is it the file of a small molecule?",
        )
    cells = (
        next((row.cells[i] for i in place if row.cells[i] not in _MISSING), "") for place in places
    )
    return Site._make([*cells, row.line])


@lru_cache(maxsize=16)
def _places(columns: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Where each field of a site stands in a row, by what is preferred."""
    return tuple(
        tuple(columns.index(name) for name in names if name in columns)
        for names in _COLUMNS.values()
    )


def _atoms(path: Path, sites: Sequence[Site]) -> list[Atom]:
    """Backbone atoms of the amino acids of a model."""
    names: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for site in sites:
        names[site[3:8]].add(site.name)
    amino = {key for key, found in names.items() if is_amino(key[0], found)}
    return [_atom(path, site) for site in sites if site[3:8] in amino]


def _atom(path: Path, site: Site) -> Atom:
    where = f"line {site.line}"

    def number(text: str, absent: float) -> float:
        if not text:
            return absent
        return number_at(path, where, text.partition("(")[0])  # 1.234(5) has an uncertainty

    return Atom(
        chain=site.chain,
        unit=site.unit,
        number=integer_at(path, where, site.number),
        code=site.code,
        residue=site.residue,
        name=site.name,
        alt=site.alt,
        occupancy=number(site.occupancy, 1.0),
        hetero=site.group.upper() == "HETATM" if site.group else not is_known(site.residue),
        xyz=(number(site.x, np.nan), number(site.y, np.nan), number(site.z, np.nan)),
        ended=0,
    )


def _binary_rows(content: bytes, most: int) -> Iterator[Row]:
    """Rows of a BinaryCIF file, as of a text; ``most`` bounds the characters of a column."""
    import biotite.structure.io.pdbx as pdbx

    file = pdbx.BinaryCIFFile.read(io.BytesIO(content))
    for block in file.serialize()["dataBlocks"]:
        for raw in block["categories"]:
            table = raw["name"].lstrip("_").lower()
            if table not in _TABLES:
                continue
            names = {raw_column["name"].lower(): raw_column for raw_column in raw["columns"]}
            wanted = [
                n for n in names if table != "atom_site" or any(n in c for c in _COLUMNS.values())
            ]
            for name in wanted:
                _check_size(names[name], raw["rowCount"], most)
            cells = [_texts(pdbx.BinaryCIFColumn.deserialize(names[name])) for name in wanted]
            for line, row in enumerate(zip(*cells, strict=True), 1):
                yield Row(block["header"], table, tuple(wanted), line, row)


def _check_size(column: Any, count: int, most: int) -> None:
    """Raise ValueError if a column says that it unfolds to more than there is memory for."""
    if isinstance(column, dict):
        sizes = [column.get("srcSize", 0), count * len(column.get("stringData", ""))]
        if max(sizes) > most or (column.get("kind") == "RunLength" and "srcSize" not in column):
            raise ValueError(f"a column unfolds to {max(sizes):,} values, above {most:,}")
        for value in column.values():
            _check_size(value, count, most)
    elif isinstance(column, list):
        for value in column:
            _check_size(value, count, most)


def _texts(column: Any) -> list[str]:
    """Cells of a column as text, ``?`` where they are masked."""
    values = column.as_array(str, masked_value="?")
    return values.tolist()
