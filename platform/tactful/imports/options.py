"""Options of an import, as the command line gives them, and what they mean."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import msgspec

from tactful.client import Kind
from tactful.errors import ConfigError
from tactful.imports.event_types import is_type
from tactful.imports.moments import DateOrder
from tactful_streaming.contract.decode_requests import EVENT_TYPES

Format = Literal["csv", "tsv", "jsonl", "json", "parquet", "excel", "feed", "shopify"]

FIELDS: Mapping[Kind, tuple[str, ...]] = {
    "events": (
        "user_id",
        "device_id",
        "session_id",
        "item_id",
        "type",
        "timestamp",
        "event_id",
        "recommendation_id",
    ),
    "items": ("item_id", "title", "category", "price", "available", "timestamp", "image"),
    "users": ("user_id", "timestamp"),
}
"""Fields of each kind that are no properties."""

_SHORT = {
    "user": "user_id",
    "device": "device_id",
    "session": "session_id",
    "item": "item_id",
    "time": "timestamp",
    "event": "event_id",
    "recommendation": "recommendation_id",
    "dwell": "dwell_ms",
}
_PROPERTIES: Mapping[Kind, tuple[str, ...]] = {
    "events": ("price", "quantity", "currency", "category", "rating", "dwell_ms"),
    "items": ("currency",),
    "users": (),
}


class ImportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options that decide how a file is understood; None where that is guessed.

    Attributes:
        kind: kind of the elements.
        format: format of the file.
        maps: ``TARGET=COLUMN``; without a column the target stays empty.
        constants: ``TARGET=VALUE`` for all rows.
        types: ``WORD=TYPE``: types of events; without a type rows with the word are skipped.
        date_order: order of day and month.
        time_zone: zone of times without an offset.
        decimal: sign before the fraction of numbers.
        encoding: encoding of text.
        delimiter: sign between fields.
        columns: names of the columns of a file without header.
        sheet: name of a sheet.
        order: whether events are sorted by time, or sent as they are in the file.
    """

    kind: Kind | None = None
    format: Format | None = None
    maps: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    date_order: DateOrder | None = None
    time_zone: str | None = None
    decimal: Literal["point", "comma"] | None = None
    encoding: str | None = None
    delimiter: str | None = None
    columns: tuple[str, ...] | None = None
    sheet: str | None = None
    order: Literal["time", "file"] | None = None

    @property
    def maps_nothing(self) -> bool:
        """Whether elements of the contract can be passed on as they are."""
        return not (self.maps or self.constants or self.types or self.order == "time")


def targets_of(pairs: Sequence[str], kind: Kind, option: str) -> dict[str, str]:
    """Parse ``TARGET=VALUE`` with full names of the targets.

    Raises:
        ConfigError: if one is not of this form, names no target, or repeats one.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"{option} {pair!r}: write TARGET=VALUE, such as user=customer_no")
        target = full_target(name.strip(), kind, f"{option} {pair!r}")
        if target in found:
            raise ConfigError(f"{option} {pair!r}: {target} is given twice")
        found[target] = value.strip()
    return found


def short_targets(pairs: Sequence[str]) -> set[str]:
    """Return the fields that options map, before the kind is known."""
    names = (pair.partition("=") for pair in pairs)
    return {_SHORT.get(name.strip(), name.strip()) for name, _, value in names if value}


def full_target(name: str, kind: Kind, where: str) -> str:
    """Return the field of an element that a short name stands for.

    >>> full_target("user", "events", ""), full_target("price", "events", "")
    ('user_id', 'properties.price')

    Raises:
        ConfigError: if elements of the kind have no such field.
    """
    full = _SHORT.get(name, name)
    if full in FIELDS[kind]:
        return full
    head, dot, rest = full.partition(".")
    if dot and rest and (head == "properties" or (head == "context" and kind == "events")):
        return full
    if full in _PROPERTIES[kind]:
        return f"properties.{full}"
    known = [*FIELDS[kind], *_PROPERTIES[kind]]
    raise ConfigError(
        f"{where}: {kind} have no field {name!r}{_meant(name, [*known, *_SHORT])}: "
        f"{', '.join(known)} or properties.NAME"
    )


def constants_of(pairs: Sequence[str], kind: Kind) -> dict[str, Any]:
    """Parse ``--set``; numbers and truth values are typed.

    Raises:
        ConfigError: if a target or its value is wrong.
    """
    constants: dict[str, Any] = {}
    for target, text in targets_of(pairs, kind, "--set").items():
        if target == "type" and not is_type(text):
            raise ConfigError(
                f"--set type={text!r} is no type of events{_meant(text, EVENT_TYPES)}: view, "
                "click, add_to_cart, purchase, rating or another of the contract, or x. and a name "
                "of yours"
            )
        constants[target] = _constant(target, text)
    return constants


def types_given(pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``--map-type``.

    Raises:
        ConfigError: if one is not ``WORD=TYPE``, or names no type.
    """
    given = {}
    for pair in pairs:
        word, sign, type_ = pair.rpartition("=")
        if not sign or not word.strip():
            raise ConfigError(f"--map-type {pair!r}: write WORD=TYPE, such as order=purchase")
        if type_ and not is_type(type_.strip()):
            raise ConfigError(
                f"--map-type {pair!r}: {type_!r} is no type of events{_meant(type_, EVENT_TYPES)}: "
                "view, click, add_to_cart, purchase or another of the contract, or x. and a name "
                "of yours"
            )
        given[word.strip()] = type_.strip()
    return given


def zone_of(name: str | None) -> dt.tzinfo:
    """Return a time zone by its name, UTC without one.

    Raises:
        ConfigError: if there is no such zone.
    """
    if name is None or name.upper() in ("UTC", "GMT", "Z"):
        return dt.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = zoneinfo.available_timezones()
        raise ConfigError(
            f"--time-zone {name!r} is unknown{_meant(name, known)}: give a name such as "
            "Europe/Berlin"
        ) from None


def known_column(name: str, columns: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the column, or date and time of day as ``DATE+TIME``.

    Raises:
        ConfigError: if the file has no such column.
    """
    if name in columns:
        return (name,)
    parts = tuple(part.strip() for part in name.split("+"))
    if len(parts) == 2 and all(part in columns for part in parts):
        return parts
    folded = [column for column in columns if column.casefold() == name.casefold()]
    if len(folded) == 1:
        return (folded[0],)
    shown = ", ".join(column for column in columns if column)
    raise ConfigError(f"{where}: no column {name!r}{_meant(name, columns)}; the file has {shown}")


def _constant(target: str, text: str) -> Any:
    if not target.startswith(("properties.", "context.")) and target not in ("price", "available"):
        return text
    try:
        value = msgspec.json.decode(text.encode())
    except msgspec.DecodeError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, [text for text in known if text], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
