"""Values of cells, read to fields of the contract."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from tactful.imports.amounts import NumberFormat, currency_of, read_number
from tactful.imports.event_types import type_of
from tactful.imports.formats.rows import Column
from tactful.imports.moments import MomentReader
from tactful.imports.names import normal, normal_words
from tactful.imports.picture_cells import picture_reader
from tactful.imports.plan import Mapped, Plan

SKIPPED = ""
"""Type of a row that is skipped."""

LONGEST = {"title": 2048, "category": 256}
"""Most characters of a text; of properties 2,048."""

_NOTHING = frozenset(
    ("", "NULL", "null", "None", "nan", "NaN", "NaT", "N/A", "n/a", "#N/A", "<NA>", "\\N")
)
_MOST_REMEMBERED = 65_536
_MOST_LISTED = 256
_YES = normal_words(
    """
    true yes y t 1 available in_stock instock limited_availability preorder pre_order backorder
    active ja verfügbar verfuegbar lieferbar auf_lager 是 有货 上架 在售 si sí oui
    online_only in_store_only"""
)
_NO = normal_words(
    """
    false no n f 0 unavailable out_of_stock outofstock sold_out soldout discontinued inactive
    draft archived nein nicht_verfügbar nicht_lieferbar ausverkauft 否 无货 下架 缺货 non"""
)
_BOOLEANS = {"true": True, "false": False}

Problems = dict[int, tuple[str, str]]
"""Code and message by the place of a cell in its column."""


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty, or a word that stands for that."""
    if isinstance(value, str):
        return value.strip() in _NOTHING
    return value is None or value != value


def present(values: Iterable[Any]) -> list[Any]:
    """Return the cells that are not empty."""
    return [value for value in values if not is_nothing(value)]


def is_boolean(value: Any) -> bool:
    """Whether a cell is a truth value."""
    return isinstance(value, bool) or str(value).strip().casefold() in _BOOLEANS


def is_flag(value: Any) -> bool:
    """Whether a cell says whether an item can be bought."""
    try:
        read_flag(value)
    except ValueError:
        return False
    return True


class CellReader:
    """Reads the cells of one column, and remembers those that repeat."""

    def __init__(
        self, read: Callable[[Any], Any], code: str, column: str, most: int = _MOST_REMEMBERED
    ) -> None:
        """Read with `read`; a `ValueError` of it rejects a row with `code`.

        At most `most` different cells are remembered.
        """
        self._read = read
        self._code = code
        self._column = column
        self._most = most
        self._known: dict[Any, Any] = {}

    def __call__(self, values: Column) -> tuple[list[Any], Problems]:
        """Return the value of each cell, None of empty ones, and the unreadable cells."""
        known, found = self._known, []
        problems: Problems = {}
        for place, value in enumerate(values):
            try:
                found.append(known[value])
                continue
            except (KeyError, TypeError):  # new, or a list
                pass
            if is_nothing(value):
                found.append(None)
                continue
            try:
                result = self._read(value)
            except (ValueError, TypeError, OverflowError) as error:
                problems[place] = self._code, f"{self._column}: {str(value)[:40]!r}: {error}"
                found.append(None)
                continue
            found.append(result)
            if not isinstance(value, list):
                if len(known) >= self._most:
                    known.clear()
                known[value] = result
        return found, problems


def reader_of(
    mapped: Mapped, plan: Plan, zone: dt.tzinfo, folder: Path | None = None
) -> CellReader:
    """Return the reader of a field; `folder` may hold the pictures that cells name."""
    if mapped.read == "picture":
        return CellReader(picture_reader(folder), "bad_picture", mapped.columns[0], most=1)
    limit = LONGEST.get(mapped.target.removeprefix("properties."), 2048)
    number = mapped.number or NumberFormat()
    readers: Mapping[str, tuple[Callable[[], Callable[[Any], Any]], str]] = {
        "id": (lambda: lambda value: read_id(value, whole=mapped.whole), "bad_id"),
        "text": (lambda: lambda value: _text(value)[:limit], "wrong_type"),
        "number": (lambda: lambda value: read_number(value, number), "bad_number"),
        "moment": (lambda: _moments(mapped, zone), "bad_timestamp"),
        "type": (lambda: lambda value: _type(value, plan.types), "unknown_type"),
        "flag": (lambda: read_flag, "wrong_type"),
        "currency": (lambda: currency_of, "wrong_type"),
        "value": (lambda: lambda value: _property(value, mapped.number), "wrong_type"),
    }
    make, code = readers[mapped.read]
    return CellReader(make(), code, mapped.columns[0])


def read_id(value: Any, *, whole: bool) -> str:
    """Return an id as text; of a `whole` number without ``.0``."""
    if isinstance(value, str):
        text = value.strip()
        return text[:-2] if whole and text.endswith((".0", ",0")) else text
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        if isinstance(value, list | dict):
            raise ValueError("is no id")
        return str(value)
    return str(int(value)) if value == int(value) else str(value)


def read_flag(value: Any) -> bool:
    """Return whether a word or an amount in stock says that an item can be bought."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float | Decimal):
        return value > 0
    word = normal(str(value).rpartition("/")[2])  # https://schema.org/InStock
    if word in _YES or word in _NO:
        return word in _YES
    return read_number(value, NumberFormat()) > 0


def read_value(value: Any) -> Any:
    """Return a property: a number, a truth value, a text or a list of them."""
    if isinstance(value, str):
        text = value.strip()
        return _BOOLEANS.get(text.casefold(), text[:2048])
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [read_value(item) for item in value if _is_scalar(item)][:_MOST_LISTED] or None
    return _text(value)[:2048]


def _property(value: Any, form: NumberFormat | None) -> Any:
    """Return a property; of a column of numbers a number, where it is one."""
    if form is not None:
        try:
            return read_number(value, form)
        except ValueError:
            pass
    return read_value(value)


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, list | dict) and not is_nothing(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(item) for item in value if _is_scalar(item))
    if isinstance(value, dict):
        raise ValueError("is an object")
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _moments(mapped: Mapped, zone: dt.tzinfo) -> MomentReader:
    assert mapped.moment is not None
    return MomentReader(mapped.moment, zone)


def _type(value: Any, types: Mapping[str, str]) -> str:
    word = read_id(value, whole=True)
    type_ = types.get(word)
    if type_ is None:
        type_ = types.get(word.casefold())
    if type_ is None:
        type_ = type_of(word)
    if type_ is None:
        raise ValueError("is no type of events: give it one with --map-type WORD=TYPE")
    return type_
