"""Parquet tables with image bytes, as Hugging Face stores data sets (extra ``parquet``)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from radixpoint.data.entries import Entry, Found, check_numbers
from radixpoint.data.iterables import IMAGE, TARGET
from radixpoint.errors import DataError
from radixpoint.files import shown


def found_in_tables(paths: Sequence[Path]) -> Found:
    """Images and labels of tables, in the order of the rows.

    Raises:
        DataError: pyarrow is missing, or a table that has no such columns.
    """
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{paths[0]}: tables are read with pyarrow: pip install 'radixpoint[parquet]'"
        ) from None
    entries: list[Entry] = []
    described: set[tuple[str | None, str | None, tuple[str, ...]]] = set()
    kinds: set[str] = set()
    for path in paths:
        try:
            table = parquet.ParquetFile(path)
            image, label = (_column(table, known) for known in (IMAGE, TARGET))
        except Exception as error:  # a damaged file ends in many ways
            raise DataError(
                f"{path}: expected a Parquet table: {shown(str(error).splitlines()[0])}"
            ) from None
        if image is None:
            columns = ", ".join(table.schema_arrow.names)
            raise DataError(f"{path}: columns {columns}: expected one of images, such as image")
        described.add((image, label, _names(table, label)))
        if len(described) > 1:
            raise DataError(f"{path}: other columns or classes than the tables before it: expected all alike")
        reader, status = _Reader(table, image), path.stat()
        row = 0
        for group in range(table.num_row_groups):
            own = table.read_row_group(group, [label]).column(0).to_pylist() if label is not None else None
            for i in range(table.metadata.row_group(group).num_rows):
                value = None if own is None else own[i]
                kinds.add(type(value).__name__)
                stamp = f"{path.absolute()} {status.st_size} {status.st_mtime_ns} {row}"
                text = None if value is None else str(value)
                entries.append(Entry(f"{path.name}:{row}", text, partial(reader.bytes, group, i), stamp))
                row += 1
    if not entries:
        return Found([])
    names = next(iter(described))[2]
    if kinds == {"NoneType"}:
        return Found(entries)
    if len(kinds) > 1 or not kinds <= {"int", "str"}:
        raise DataError(
            f"{paths[0]}: labels of kinds {', '.join(sorted(kinds))}: expected whole numbers, or names"
        )
    known = sorted({entry.label or "" for entry in entries})
    if kinds == {"str"}:
        return Found(entries, frozenset(known))
    strange = next((x for x in known if int(x) < 0 or (names and int(x) >= len(names))), None)
    if strange is not None:
        raise DataError(
            f"{paths[0]}: label {strange}: expected 0..{len(names) - 1 if names else 'the last output'}"
        )
    check_numbers(paths[0], known)
    if names:  # what the table says of its numbers
        return Found([_renamed(entry, names) for entry in entries], frozenset(names), order=names)
    return Found(entries, numbered=True)


def _renamed(entry: Entry, names: Sequence[str]) -> Entry:
    return Entry(entry.name, names[int(entry.label or 0)], entry.read, entry.stamp)


def _column(table: Any, known: Sequence[str]) -> str | None:
    return next((name for name in known if name in table.schema_arrow.names), None)


def _names(table: Any, label: str | None) -> tuple[str, ...]:
    """Class names in the order of their numbers, where Hugging Face's metadata says them."""
    about = (table.schema_arrow.metadata or {}).get(b"huggingface")
    if about is None or label is None:
        return ()
    try:
        found = msgspec.json.decode(about)["info"]["features"][label].get("names") or ()
    except (msgspec.MsgspecError, KeyError, AttributeError, TypeError):
        return ()
    names = tuple(map(str, found))
    return names if len(set(names)) == len(names) else ()


class _Reader:
    """Image bytes of a table; the row group that was read last stays."""

    def __init__(self, table: Any, column: str) -> None:
        self._table, self._column = table, column
        self._lock = threading.Lock()
        self._group, self._rows = -1, None

    def bytes(self, group: int, row: int) -> bytes:
        with self._lock:
            if group != self._group:
                self._rows = self._table.read_row_group(group, [self._column]).column(0)
                self._group = group
            assert self._rows is not None
            value = self._rows[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ValueError("no bytes of an image in the table")
        return data
