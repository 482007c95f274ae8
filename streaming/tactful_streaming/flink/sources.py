"""Fields of events that definitions read, and whether the job needs the items for them."""

from __future__ import annotations

from tactful_streaming.definitions.model import Definition, Definitions, Feature, Join, Sequence
from tactful_streaming.flink.options import FlinkOptions
from tactful_streaming.flink.sql_text import CannotCompile, entity_column


def check_sources(definition: Definition, options: FlinkOptions) -> None:
    """Refuse a definition that needs items if the topic has none."""
    if options.catalogue:
        return
    if isinstance(definition, Join):
        raise CannotCompile("it needs the updates of items, and catalogue is off")
    of_item = sorted(source for source in _sources(definition) if source.startswith("item."))
    if of_item:
        raise CannotCompile(f"{of_item[0]} needs the items, and catalogue is off")


def describing(definitions: Definitions, options: FlinkOptions) -> list[str]:
    """Return the names of the definitions for which the job stores versions of items."""
    if not options.catalogue:
        return []
    return [it.name for it in definitions.all if any(map(_is_of_item, _sources(it)))]


def _sources(definition: Definition) -> set[str]:
    """Return the fields of an event that a definition reads beside its type and time."""
    sources = {entity_column(definition.entity)}
    if isinstance(definition, Feature):
        sources |= {source for source in (definition.of, definition.group_by) if source}
    elif isinstance(definition, Sequence) and definition.same is not None:
        sources.add(definition.same)
    return sources


def _is_of_item(source: str) -> bool:
    return source == "category" or source.startswith("item.")
