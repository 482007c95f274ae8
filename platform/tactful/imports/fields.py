"""From the columns of a file to the fields of events, items and users."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tactful.errors import DatasetError
from tactful.imports import names
from tactful.imports.columns import Columns
from tactful.imports.draft import Draft
from tactful.imports.options import types_given
from tactful.imports.plan import Guess, Mapped, Plan
from tactful.imports.time_order import is_disordered

_MOST_PROPERTIES = 60
_MOST_SHOWN = 8  # words of a column
_FILLED = 0.95  # share of rows with an order, from which it is the session


def event_fields(columns: Columns, source: str) -> Guess:
    """Plan events.

    Raises:
        DatasetError: if there is no user, time or type.
    """
    draft = Draft(columns, "events", source)
    for name in columns.names:  # written as in the contract
        if name.startswith(("properties.", "context.")):
            draft.add(name, name)
    for target in (names.USER, names.DEVICE, names.ITEM, names.EVENT, names.RECOMMENDATION):
        draft.add(target, draft.free(columns.find(target)))
    _add_time(draft)
    words = types_given(columns.options.types)
    _add_type(draft, words)
    guest = _add_session(draft)
    _add_amounts(draft)
    if not draft.has("type"):
        _guess_type(draft)
    if not (draft.has("user_id") or draft.has("device_id") or guest):
        draft.lack("no column names the user", "Name it: --map user=COLUMN")
    types = _all_words(draft, words) if "type" in draft.fields else {}
    returns = draft.constants.get("type") == "purchase" and "properties.quantity" in draft.fields
    if returns:
        draft.remarks["type"] = (
            f"{draft.remarks.get('type', '')}; return where the quantity is negative"
        ).strip("; ")
    described = columns.find(names.TITLE) or columns.find(names.CATEGORY)
    if described and draft.has("item_id"):
        given = (
            f" --map item={draft.fields['item_id'].columns[0]}" if "item_id" in draft.given else ""
        )
        draft.notes.append(
            "only items that are described are recommended: "
            f"tactful import {columns.path.name} --kind items{given} sends those of this file"
        )
    return draft.finish(
        Plan(
            kind="events",
            fields=tuple(draft.fields.values()),
            constants=draft.constants,
            types=types,
            time_zone=columns.options.time_zone or "UTC",
            guest=guest,
            returns=returns,
            by_time=_is_disordered(draft),
        )
    )


def item_fields(columns: Columns, source: str) -> Guess:
    """Plan items.

    Raises:
        DatasetError: if there is no id, or no description.
    """
    draft = Draft(columns, "items", source)
    draft.add("item_id", columns.find(names.ITEM) or columns.find(names.BARE_ID))
    if not draft.has("item_id"):
        draft.lack("no column has the id of the item", "Name it: --map item=COLUMN")
    draft.add("title", draft.free(columns.find(names.TITLE)))
    draft.add("category", draft.free(columns.find(names.CATEGORY)))
    draft.add("price", draft.free(columns.find_number(names.PRICE)))
    draft.add("available", draft.free(columns.find_flag(names.AVAILABLE)))
    _add_currency(draft, "price")
    is_log = columns.find(names.USER) or columns.find(names.DEVICE) or columns.find(names.ORDER)
    if not is_log:  # whose other columns tell of the sale, and not of the item
        draft.add("timestamp", draft.free(columns.find_time(names.UPDATED)))
        _add_properties(draft, [name for name in columns.names if not names.is_identifying(name)])
    described = [target for target in draft.fields if target not in ("item_id", "timestamp")]
    if not described:
        draft.lack(
            "no column describes the item",
            "If these are not events (--kind events), name a title, category or price with --map",
        )
    return draft.finish(_plain_plan(draft))


def user_fields(columns: Columns, source: str) -> Guess:
    """Plan users; of unknown columns none is sent, since they may identify a person.

    Raises:
        DatasetError: if there is no id, or nothing that describes the user.
    """
    draft = Draft(columns, "users", source)
    draft.add("user_id", columns.find(names.USER) or columns.find(names.BARE_ID))
    if not draft.has("user_id"):
        draft.lack("no column has the id of the user", "Name it: --map user=COLUMN")
    draft.add("timestamp", draft.free(columns.find_time(names.UPDATED)))
    _add_properties(draft, [name for name in columns.names if names.is_demographic(name)])
    if not any(target.startswith("properties.") for target in draft.fields):
        draft.lack(
            "no column is known to describe the user",
            "Name those to be sent: --map properties.NAME=COLUMN",
        )
    return draft.finish(_plain_plan(draft))


def _plain_plan(draft: Draft) -> Plan:
    return Plan(
        kind=draft.kind,
        fields=tuple(draft.fields.values()),
        constants=draft.constants,
        time_zone=draft.columns.options.time_zone or "UTC",
    )


def _add_time(draft: Draft) -> None:
    columns = draft.columns
    name = columns.find_time(names.TIME)
    for clock in names.candidates(names.CLOCK, columns.names):
        if name is None or "timestamp" in draft.given or draft.has("timestamp"):
            break
        if name != clock and columns.joins(name, clock):
            draft.fields["timestamp"] = columns.mapped("timestamp", (name, clock), "moment")
            return
    draft.add("timestamp", draft.free(name))
    if not draft.has("timestamp"):
        draft.lack(
            "no column has the time of the event",
            "Name it: --map timestamp=COLUMN, or give one time for all: --set timestamp=TIME"
            + _near_time(columns),
        )


def _near_time(columns: Columns) -> str:
    """Say which column may have times, if its cells were some."""
    for name in names.candidates(names.TIME, columns.names):
        wrong = columns.no_time(name)
        if wrong is not None:
            return f". The column {name} has cells that are no times, such as {wrong!r}"
    return ""


def _add_type(draft: Draft, given: dict[str, str]) -> None:
    if "type" in draft.constants:
        draft.remarks["type"] = "--set"
        return
    columns = draft.columns
    for name in names.candidates(names.TYPE, columns.names):
        if columns.cells(name) and columns.share_of_types(name, given) >= 0.5:
            draft.add("type", draft.free(name))
            return


def _all_words(draft: Draft, given: dict[str, str]) -> dict[str, str]:
    """Return the type of each word in the sample; those of the contract are left out."""
    name = draft.fields["type"].columns[0]
    types, unknown = draft.columns.words(name, given)
    if unknown:
        shown = ", ".join(unknown[:_MOST_SHOWN])
        raise DatasetError(
            f"{draft.columns.path}: {name} has words that are no type of events: {shown}. Give "
            f"each a type, such as --map-type '{unknown[0]}=view' or "
            f"'{unknown[0]}=x.name', or skip its rows: --map-type '{unknown[0]}='"
        )
    return {word: type_ for word, type_ in (given | types).items() if word != type_}


def _add_session(draft: Draft) -> str | None:
    """Set the session, and return the column that stands for the user of guests."""
    columns = draft.columns
    name = draft.free(columns.find(names.SESSION))
    order = draft.free(columns.find(names.ORDER))
    if name is None and order is not None:
        if columns.filled(order) >= _FILLED:
            name = order
        else:
            share = round(100 * columns.filled(order))
            draft.notes.append(f"{order} is not the session: {share} % of the rows have one")
    draft.add("session_id", name)
    session = draft.fields.get("session_id")
    if session is None or draft.has("device_id") or "device_id" in draft.given:
        return None
    column = session.columns[0]
    draft.remarks["device_id"] = (
        "rows without a user are guests, one for each session"
        if draft.has("user_id")
        else "no column names the user: each session is one of its own"
    )
    return column


def _add_amounts(draft: Draft) -> None:
    columns = draft.columns
    price = columns.find_number(names.PRICE)
    quantity = columns.find_number(names.QUANTITY)
    draft.add("properties.price", draft.free(price))
    draft.add("properties.quantity", draft.free(quantity))
    if not draft.has("properties.price") and not draft.has("properties.quantity"):
        draft.add("properties.price", draft.free(columns.find_number(names.TOTAL)))
    draft.add("properties.rating", draft.free(columns.find_number(names.RATING)))
    draft.add("properties.dwell_ms", draft.free(columns.find_number(names.DWELL)))
    draft.add("properties.category", draft.free(columns.find(names.CATEGORY)))
    _add_currency(draft, "properties.price")


def _add_currency(draft: Draft, price: str) -> None:
    name = draft.free(draft.columns.find(names.CURRENCY))
    draft.add("properties.currency", name)
    mapped = draft.fields.get(price)
    if draft.has("properties.currency") or mapped is None:
        return
    column = mapped.columns[0]
    if "properties.currency" not in draft.given and draft.columns.names_currency(column):
        draft.fields["properties.currency"] = Mapped(
            target="properties.currency", columns=(column,), read="currency"
        )


def _add_properties(draft: Draft, wanted: Iterable[str]) -> None:
    """Take all wanted columns as properties of their own names."""
    for name in wanted:
        if draft.free(name) is None or not draft.columns.cells(name):
            continue
        if sum(target.startswith("properties.") for target in draft.fields) >= _MOST_PROPERTIES:
            draft.notes.append(f"only {_MOST_PROPERTIES} properties are sent")
            return
        plain = name.removeprefix("properties.")
        draft.add(f"properties.{plain[:64]}", name)


def _guess_type(draft: Draft) -> None:
    """Take one type for all rows, if the columns show which."""
    time = draft.fields.get("timestamp")
    bought: dict[str, Any] = {
        "a rating": draft.has("properties.rating"),
        "a price, a quantity and an order": draft.has("properties.price")
        and draft.has("properties.quantity")
        and draft.columns.find(names.ORDER) is not None,
        "the name of the time": time is not None and names.is_of_purchase(time.columns[0]),
    }
    reason = next((reason for reason, holds in bought.items() if holds), None)
    if reason is None or "type" in draft.given:
        draft.lack(
            "no column has the type of the event",
            "Give one type for all: --set type=view, or name the column: --map type=COLUMN"
            + _near_types(draft.columns),
        )
        return
    draft.constants["type"] = "rating" if reason == "a rating" else "purchase"
    draft.remarks["type"] = f"by {reason} (--set type=…)"


def _near_types(columns: Columns) -> str:
    """Say which column may have types, if its words had any."""
    for name in names.candidates(names.TYPE, columns.names):
        _, words = columns.words(name, {})
        if 0 < len(words) <= _MOST_SHOWN:
            shown = ", ".join(words)
            return f", and types for its words, as for {name} ({shown}): --map-type {words[0]}=view"
    return ""


def _is_disordered(draft: Draft) -> bool:
    """Whether rows have to be sorted: features take only events near the latest time."""
    mapped = draft.fields.get("timestamp")
    order = draft.columns.options.order
    if order is not None or mapped is None:
        return order == "time"
    return is_disordered(draft.columns.times(mapped))
