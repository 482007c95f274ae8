"""Pieces of Flink SQL: literals, names, intervals, and where a source of a definition is read."""

from __future__ import annotations

from collections.abc import Iterable

_ITEM = "item."
_PROPERTIES = "properties."
_LONGEST_DAYS = 999


class CannotCompile(Exception):
    """A definition has no equal in Flink SQL; the text says why."""


def literal(text: str) -> str:
    """A text as SQL writes it, whatever is in it."""
    return "'" + text.replace("'", "''") + "'"


def name(identifier: str) -> str:
    """An identifier as Flink SQL writes it."""
    return "`" + identifier.replace("`", "``") + "`"


def double(number: float) -> str:
    """A number as a DOUBLE; SQL takes one without an exponent for a DECIMAL."""
    text = repr(float(number))
    return text if "e" in text else f"{text}E0"


def interval(milliseconds: int) -> str:
    """A length of time.

    Raises:
        CannotCompile: if Flink cannot hold it.
    """
    seconds, millisecond = divmod(milliseconds, 1000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    if day > _LONGEST_DAYS:
        raise CannotCompile(f"Flink's intervals end at {_LONGEST_DAYS} days")
    return (
        f"INTERVAL '{day} {hour:02}:{minute:02}:{second:02}.{millisecond:03}' DAY(3) TO SECOND(3)"
    )


def one_of(column: str, texts: Iterable[str]) -> str:
    """The condition that a column is one of `texts`, of which there is at least one."""
    listed = [literal(text) for text in texts]
    return f"{column} = {listed[0]}" if len(listed) == 1 else f"{column} IN ({', '.join(listed)})"


def milliseconds_of(column: str) -> str:
    """A TIMESTAMP(3) as epoch milliseconds."""
    return f"(EXTRACT(EPOCH FROM {column}) * 1000 + EXTRACT(MILLISECOND FROM {column}))"


def entity_column(entity: str) -> str:
    """The column of the view ``events`` that holds the key of an entity."""
    return "category" if entity == "category" else f"{entity}_id"


def text_of(source: str) -> str:
    """The text of a source, NULL where an event has none, as an expression over ``events``."""
    if source.startswith(_PROPERTIES):
        return f"json_text(properties, {literal(source.removeprefix(_PROPERTIES))})"
    if source in ("item.title", "item.category"):
        return source.replace(".", "_")
    if source == "item.available":
        raise CannotCompile("item.available is neither text nor number")
    if source.startswith(_ITEM):
        return f"json_text(item_properties, {literal(source.removeprefix(_ITEM))})"
    return source


def number_of(source: str) -> str:
    """The number of a source, NULL where an event has none, as an expression over ``events``."""
    if source == "item.price":
        return "item_price"
    if source.startswith(_ITEM):
        return f"json_number(item_properties, {literal(source.removeprefix(_ITEM))})"
    return f"json_number(properties, {literal(source.removeprefix(_PROPERTIES))})"
