"""Parts of Flink SQL: literals, names, intervals, and sources of definitions."""

from __future__ import annotations

from collections.abc import Iterable

from tactful_streaming.definitions.model import DAY

_ITEM = "item."
_PROPERTIES = "properties."
_DAY_OF = "DATE_FORMAT(et, 'yyyy-MM-dd')"  # the time zone of a job is UTC
_LONGEST_DAYS = 999


class CannotCompile(Exception):
    """A definition cannot be compiled to Flink SQL; the text is the reason."""


def literal(text: str) -> str:
    """Quote a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def name(identifier: str) -> str:
    """Quote an identifier."""
    return "`" + identifier.replace("`", "``") + "`"


def double(number: float) -> str:
    """Write a number as a DOUBLE; without an exponent it would be a DECIMAL in SQL."""
    text = repr(float(number))
    return text if "e" in text else f"{text}E0"


def interval(milliseconds: int) -> str:
    """Write a duration as an INTERVAL."""
    seconds, millisecond = divmod(milliseconds, 1000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    if day > _LONGEST_DAYS:
        raise CannotCompile(f"Flink's intervals end at {_LONGEST_DAYS} days")
    time = f"{hour:02}:{minute:02}:{second:02}.{millisecond:03}"
    return f"INTERVAL '{day} {time}' DAY(3) TO SECOND(3)"


def one_of(column: str, texts: Iterable[str]) -> str:
    """Write the condition that a column is one of `texts`, which is not empty."""
    listed = [literal(text) for text in texts]
    return f"{column} = {listed[0]}" if len(listed) == 1 else f"{column} IN ({', '.join(listed)})"


def milliseconds_of(column: str) -> str:
    """Convert a TIMESTAMP(3) to epoch milliseconds."""
    return f"(EXTRACT(EPOCH FROM {column}) * 1000 + EXTRACT(MILLISECOND FROM {column}))"


def entity_column(entity: str) -> str:
    """Return the column of the view ``events`` with the key of an entity."""
    return "category" if entity == "category" else f"{entity}_id"


def text_of(source: str) -> str:
    """Write the text of a source as an expression over ``events``; NULL without one."""
    if source.startswith(_PROPERTIES):
        return f"json_text(properties, {literal(source.removeprefix(_PROPERTIES))})"
    if source in ("item.title", "item.category"):
        return source.replace(".", "_")
    if source == "item.available":
        raise CannotCompile("item.available is neither text nor number")
    if source.startswith(_ITEM):
        return f"json_text(item_properties, {literal(source.removeprefix(_ITEM))})"
    return _DAY_OF if source == DAY else source


def number_of(source: str) -> str:
    """Write the number of a source as an expression over ``events``; NULL without one."""
    if source == "item.price":
        return "item_price"
    if source.startswith(_ITEM):
        return f"json_number(item_properties, {literal(source.removeprefix(_ITEM))})"
    return f"json_number(properties, {literal(source.removeprefix(_PROPERTIES))})"
