"""Answers of the HTTP API as data frames, of polars or pandas, whichever is installed.

It needs ``narwhals``, which the extra ``notebook`` brings.
"""

from __future__ import annotations

import datetime as dt
import functools
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from tactful.errors import ClientError

Backend = Literal["polars", "pandas"]

_LIBRARIES: tuple[Backend, ...] = ("polars", "pandas")
_TIMES = ("at", "timestamp", "pane_start", "counted_from", "since", "until", "start", "end")
_EARLIEST_MS = 100_000_000_000  # 1973: smaller numbers are no times in milliseconds


def to_frame(rows: Any, *, backend: Backend | None = None) -> Any:
    """Return rows as a data frame of polars or pandas.

    An answer with one list, such as a page of a statistic, gives the rows of this list; several
    pages give those of all. Nested fields get names with dots, epoch milliseconds in fields of
    times become times in UTC, and lists and mixed values become text in JSON.

    Args:
        rows: an answer, a list of structs or mappings, or an iterable of pages.
        backend: library of the frame; the installed one if not given, polars before pandas.

    Raises:
        ClientError: if no such library is installed, or an answer has several lists.
    """
    narwhals, library = _library(backend)
    flat = [_flat(row) for row in _rows(rows)]
    names = dict.fromkeys(name for row in flat for name in row)
    columns = {name: _column(name, [row.get(name) for row in flat]) for name in names}
    return narwhals.from_dict(columns, backend=library).to_native()


def _library(backend: Backend | None) -> tuple[Any, Backend]:
    """Import narwhals, and choose a library that is installed."""
    wanted = _LIBRARIES if backend is None else (backend,)
    found = [name for name in wanted if importlib.util.find_spec(name) is not None]
    if not found or importlib.util.find_spec("narwhals") is None:
        missing = " or ".join(wanted)
        raise ClientError(
            f"data frames need narwhals and {missing}: `pip install 'tactful[notebook]'`"
        )
    import narwhals

    return narwhals, found[0]


def _rows(rows: Any) -> list[Mapping[str, Any]]:
    """Return the rows of an answer, of pages, or of a list."""
    if isinstance(rows, Mapping):
        return [rows]
    if not isinstance(rows, msgspec.Struct):
        parts = [*rows]
        pages = bool(parts) and all(_lists(part) for part in parts)
        return [row for part in parts for row in (_rows(part) if pages else [_fields(part)])]
    lists = _lists(rows)
    if len(lists) > 1:
        raise ClientError(
            f"{type(rows).__name__} has several lists: give one of {', '.join(lists)}"
        )
    return [_fields(row) for it in lists.values() for row in it] if lists else [_fields(rows)]


def _lists(answer: Any) -> dict[str, list[Any]]:
    """Return the fields of an answer that hold rows, by their types: lists of structs."""
    if not isinstance(answer, msgspec.Struct):
        return {}
    return {name: getattr(answer, name) for name in _names_of_lists(type(answer))}


@functools.cache
def _names_of_lists(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    about = msgspec.inspect.type_info(kind)
    assert isinstance(about, msgspec.inspect.StructType)
    return tuple(
        field.name
        for field in about.fields
        if isinstance(field.type, msgspec.inspect.ListType)
        and isinstance(field.type.item_type, msgspec.inspect.StructType)
    )


def _fields(row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if isinstance(row, msgspec.Struct):
        built: dict[str, Any] = msgspec.to_builtins(row)
        return {name: built.get(name) for name in row.__struct_fields__}
    return {"value": row}


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = None if isinstance(value, Mapping) else value
    return flat


def _column(name: str, values: list[Any]) -> list[Any]:
    """Return a column of one type: times for epoch milliseconds, text for mixed values."""
    last = name.rpartition(".")[2]
    known = [value for value in values if value is not None]
    times = last in _TIMES or last.endswith("_at")
    if times and known and all(type(it) is int and it >= _EARLIEST_MS for it in known):
        return [None if it is None else _time(it) for it in values]
    kinds = {type(it) for it in known}
    if kinds == {int, float}:
        return [None if it is None else float(it) for it in values]
    if len(kinds) < 2 and not kinds & {list, tuple}:
        return values
    return [it if it is None or isinstance(it, str) else _json(it) for it in values]


def _time(milliseconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def as_records(frame: Any) -> Iterable[dict[str, Any]]:
    """Return the rows of a data frame as mappings, to be sent as events, items or users.

    Missing values are left out, so that the server's defaults hold.
    """
    import narwhals

    for row in narwhals.from_native(frame).iter_rows(named=True):
        yield {name: value for name, value in row.items() if value is not None and value == value}
