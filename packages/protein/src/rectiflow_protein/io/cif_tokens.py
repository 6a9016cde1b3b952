"""The rows of the tables of a CIF file, as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rectiflow_protein.io.content import as_text
from rectiflow_protein.io.errors import StructureError

_TOKEN = re.compile(r"""'.*?'(?=\s|$)|".*?"(?=\s|$)|\#.*|\S+""")
_PLAIN = re.compile(r"""[^'"#;_\s][^'"#]*""")  # a line of values alone
_KEYWORD = re.compile(r"data_|loop_$|_|save_|global_$|stop_$", re.IGNORECASE)


class Row(NamedTuple):
    """One row: data block, table without ``_``, columns in lower case, line, and its cells."""

    block: str
    table: str
    columns: tuple[str, ...]
    line: int
    cells: Sequence[str]


class _Line(NamedTuple):
    """A keyword or name alone, or the values of one line."""

    number: int
    keyword: str
    values: list[str]


def rows(path: Path, content: bytes, tables: Iterable[str]) -> Iterator[Row]:
    """Yield the rows of the named tables; a table of single values is one row."""
    wanted = set(tables)
    block = table = ""
    columns: list[str] = []
    cells: list[str] = []
    pairs: dict[str, str] = {}
    in_header = in_loop = False
    start = 0
    for line in _lines(content):
        if line.values:
            if not in_loop:
                if columns:
                    pairs[columns.pop()] = line.values[0]
                continue
            in_header = False
            if table not in wanted or not columns:
                continue
            start = start if cells else line.number
            cells += line.values
            while len(cells) >= len(columns):
                yield Row(block, table, tuple(columns), start, cells[: len(columns)])
                cells, start = cells[len(columns) :], line.number
            continue
        if cells:
            raise StructureError(
                path,
                f"line {start}: a row of _{table} has {len(cells)} of {len(columns)} cells",
                "whole rows",
                "Is the file cut short?",
            )
        name, _, column = line.keyword.lower()[1:].partition(".")
        if line.keyword.startswith("_") and in_header:
            table = name
            columns.append(column)
            continue
        if pairs and (not line.keyword.startswith("_") or name != table):
            if table in wanted:
                yield Row(block, table, tuple(pairs), start, list(pairs.values()))
            pairs = {}
        if line.keyword.startswith("_"):
            table, columns, in_loop, start = name, [column], False, line.number
            continue
        columns = []
        in_header = in_loop = line.keyword.lower() == "loop_"
        if line.keyword.lower().startswith("data_"):
            block = line.keyword[5:]


def _lines(content: bytes) -> Iterator[_Line]:
    """Cut text into keywords and values; ends with an empty keyword, which closes all tables."""
    text: list[str] | None = None
    for number, line in enumerate(as_text(content), 1):
        if text is not None:
            if line.startswith(";"):
                yield _Line(number, "", ["".join(text)])
                text = None
            else:
                text.append(line)
        elif line.startswith(";"):
            text = [line[1:]]
        elif _PLAIN.fullmatch(line) and not _KEYWORD.match(line):
            yield _Line(number, "", line.split())
        else:
            for token in _TOKEN.findall(line):
                if token.startswith("#"):
                    break
                if _KEYWORD.match(token):
                    yield _Line(number, token, [])
                else:
                    quoted = token[0] in "'\"" and len(token) > 1 and token[-1] == token[0]
                    yield _Line(number, "", [token[1:-1] if quoted else token])
    yield _Line(0, "end", [])
