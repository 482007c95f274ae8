"""Features of a user as sentences: what a name such as ``taken_28d`` counts, and its value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tactful_ui.components import times
from tactful_ui.components.words import text as _

_MOST = 8
_DAY, _HOUR, _MINUTE, _SECOND = 86_400_000, 3_600_000, 60_000, 1_000


class Meaning(Protocol):
    """Computation of a feature (`tactful.schemas.users.FeatureMeaning`)."""

    name: str
    aggregate: str
    events: list[str]
    of: str | None
    group_by: str | None
    window_ms: int | None


def sentence(meaning: Meaning, value: Any) -> str:
    """Return a feature and its value as a sentence; "" where there is no value.

    >>> sentence(FeatureMeaning(name="v", aggregate="count", events=["view"]), 3.0)
    'Views: 3'
    """
    shown = _value(meaning, value)
    if not shown:
        return ""
    head = _head(meaning)
    span = _span(meaning.window_ms)
    by = _(" by {group}", group=_source(meaning.group_by)) if meaning.group_by else ""
    return f"{head[:1].upper()}{head[1:]}{span}{by}: {shown}"


def _head(meaning: Meaning) -> str:
    """Return what is computed, such as ``sum of the price over purchases``."""
    events = _events(meaning.events)
    of = _source(meaning.of)
    match meaning.aggregate:
        case "count":
            return events
        case "last_time":
            return _("last time of {events}", events=events)
        case "last_n":
            return _("latest {of} of {events}", of=of, events=events)
        case "sum":
            return _("sum of the {of} over {events}", of=of, events=events)
        case "mean":
            return _("mean {of} of {events}", of=of, events=events)
        case "distinct":
            return _("different {of} in {events}", of=of, events=events)
    return _("{name} of {events}", name=meaning.aggregate.replace("_", " "), events=events)


def _events(kinds: Sequence[str]) -> str:
    names = {
        "view": _("views"),
        "click": _("clicks"),
        "purchase": _("purchases"),
        "add_to_cart": _("additions to the cart"),
        "remove_from_cart": _("removals from the cart"),
        "search": _("searches"),
        "rating": _("ratings"),
        "return": _("returns"),
        "refund": _("refunds"),
        "leave": _("leaves of a page"),
        "payment": _("payments"),
        "impression": _("recommendations seen"),
        "exposure": _("exposures to an experiment"),
        "x.*": _("own events of the shop"),
    }
    return _(", ").join(names.get(kind, kind.removeprefix("x.")) for kind in kinds)


def _source(name: str | None) -> str:
    known = {
        "item_id": _("item"),
        "category": _("category"),
        "properties.price": _("price"),
        "properties.query": _("search words"),
        "properties.dwell_ms": _("time on a page in ms"),
        None: _("values"),
    }
    return known.get(name) or str(name).removeprefix("properties.")


def _span(window_ms: int | None) -> str:
    if window_ms is None:
        return ""
    if window_ms % _DAY == 0:
        return _(" in the last {n} days", n=window_ms // _DAY)
    if window_ms % _HOUR == 0:
        return _(" in the last {n} hours", n=window_ms // _HOUR)
    if window_ms % _MINUTE == 0:
        return _(" in the last {n} minutes", n=window_ms // _MINUTE)
    return _(" in the last {n} seconds", n=round(window_ms / _SECOND))


def _value(meaning: Meaning, value: Any) -> str:
    is_time = meaning.aggregate == "last_time"
    if isinstance(value, Mapping):
        ordered = sorted(value.items(), key=lambda pair: -pair[1])
        parts = [f"{name} ({_number(each, is_time)})" for name, each in ordered if each]
        return _listed(parts)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _listed(
            [str(pair[0]) if isinstance(pair, Sequence) else str(pair) for pair in value]
        )
    return _number(value, is_time) if value else ""


def _listed(parts: Sequence[str]) -> str:
    more = len(parts) - _MOST
    shown = _(", ").join(parts[:_MOST])
    return _("{shown} and {more} more", shown=shown, more=more) if more > 0 else shown


def _number(value: float, is_time: bool) -> str:
    if is_time:
        return times.moment(int(value))
    return f"{value:,.2f}".rstrip("0").rstrip(".")
