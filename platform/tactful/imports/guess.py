"""Guesses a plan from names and values of the columns; what the user gives comes first."""

from __future__ import annotations

from typing import get_args

from tactful.client import Kind
from tactful.errors import DatasetError
from tactful.imports import names
from tactful.imports.columns import Columns
from tactful.imports.fields import event_fields, item_fields, user_fields
from tactful.imports.formats.json_rows import JsonLinesReader
from tactful.imports.formats.rows import Reader
from tactful.imports.names import (
    AVAILABLE,
    BARE_ID,
    CATEGORY,
    DEVICE,
    ITEM,
    ORDER,
    PRICE,
    QUANTITY,
    RATING,
    SESSION,
    TIME,
    TITLE,
    TOTAL,
    TYPE,
    USER,
)
from tactful.imports.options import ImportOptions, short_targets
from tactful.imports.plan import Guess, Plan
from tactful.imports.raw_lines import raw_lines
from tactful.imports.time_order import is_disordered

_MOST_TITLES = 0.1  # share of ids of items that may have several titles, as of a corrected name


def guess(reader: Reader, options: ImportOptions) -> Guess:
    """Find out how the rows of a file become elements.

    Raises:
        ConfigError: if an option does not fit the file.
        DatasetError: if the file cannot be understood; the message says what is missing.
    """
    if isinstance(reader, JsonLinesReader) and options.maps_nothing:
        raw = raw_lines(reader)
        if raw is not None and options.kind in (None, raw[0]):
            kind, times = raw
            source = "--kind" if options.kind else "by the fields of the lines"
            found = Guess(Plan(kind=kind, raw=True), source)
            if options.order is None and is_disordered(times):
                found.notes.append(
                    "the lines are not in the order of time: --order time sorts them"
                )
            return found
    columns = Columns(reader, options)
    kind, source = _kind(reader, columns, options)
    make = {"events": event_fields, "items": item_fields, "users": user_fields}[kind]
    return make(columns, source)


def likely_kind(columns: Columns, options: ImportOptions) -> Kind | None:
    """Return the kind that columns look like, or None."""
    given = short_targets([*options.maps, *options.constants])

    def has(*fields: str) -> bool:
        return any(field in given or columns.find(field) for field in fields)

    item, subject = has(ITEM), has(USER, DEVICE)
    words = columns.find(TYPE)
    typed = "type" in given or (words is not None and columns.share_of_types(words, {}) >= 0.5)
    happened = TIME in given or columns.find_time(TIME) is not None
    acted = typed or has(RATING, QUANTITY, ORDER, SESSION) or happened
    if (subject or has(SESSION, ORDER)) and (item or typed) and acted and (subject or happened):
        return "events"
    if item and happened and (typed or has(QUANTITY, RATING)):
        return "events"  # whose user has another name
    if subject and not item:
        return "users"
    if not subject and (item or has(BARE_ID)) and has(TITLE, PRICE, CATEGORY, AVAILABLE, TOTAL):
        return "items"
    if has(BARE_ID) and any(map(names.is_demographic, columns.names)):
        return "users"
    if has(BARE_ID) and any(map(names.is_identifying, columns.names)):
        return "users"
    return "items" if item and not subject and len(columns.names) > 1 else None


def _kind(reader: Reader, columns: Columns, options: ImportOptions) -> tuple[Kind, str]:
    if options.kind is not None:
        return options.kind, "--kind"
    if reader.holds is not None:
        return reader.holds, "by the format"
    likely = likely_kind(columns, options)
    if likely == "items":
        _refuse_orders(columns)
    if likely is not None:
        return likely, "by the columns; --kind overrides"
    raise DatasetError(
        f"{reader.path}: cannot tell whether these are {', '.join(get_args(Kind))}: its columns "
        f"are {', '.join(columns.names)}. Give --kind, and name columns with "
        "--map, such as --map user=COLUMN --map item=COLUMN"
    )


def _refuse_orders(columns: Columns) -> None:
    """Raise DatasetError if what looks like the ids of items are those of orders or visits."""
    name, title = columns.find(ITEM) or columns.find(BARE_ID), columns.find(TITLE)
    if name is None or title is None or columns.shares_values(name, title) < _MOST_TITLES:
        return
    raise DatasetError(
        f"{columns.path}: cannot tell what a row is: values of {name} have several values of "
        f"{title} each, so they are no ids of items. If {name} is an order or visit, give --kind "
        f"events --map session={name} --map item={title} --set type=purchase; else --kind items"
    )
