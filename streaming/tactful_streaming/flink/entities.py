"""Compiles features of users and sessions to a job that publishes packed entities.

The job computes the values that the engine keeps, in the engine's own format, so that servers read
them with the engine's code: windows age at the time of a request, and no watermark delays a value.
Flink SQL cannot do that. The script is therefore a list of settings and one statement that our jar
runs, with the layout of the packed values in JSON::

    SET 'pipeline.name' = 'tactful';
    ENTITIES '{"tag": "3f1c…", "entities": [{"kind": "user", "aggregates": […]}], …}';
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from tactful_streaming.decode.projection import PROPERTIES
from tactful_streaming.definitions.model import (
    CUSTOM_EVENTS,
    STAGE_EVENTS,
    CumulativeWindow,
    Definitions,
    Feature,
    ForwardDecay,
    SessionWindow,
    emitted_types,
)
from tactful_streaming.errors import DefinitionError
from tactful_streaming.flink.options import FlinkOptions, FlinkScript
from tactful_streaming.flink.sql_text import literal
from tactful_streaming.windows.columns import DecayedTotals, LastTimes, RecentValues
from tactful_streaming.windows.pane_columns import (
    AccumulatorPanes,
    PanedColumn,
    PanedWindow,
    slide_of,
)
from tactful_streaming.windows.panes import NumberPanes
from tactful_streaming.windows.sessions import Sessions
from tactful_streaming.windows.shared_aggregate import SharedAggregate, make_shared_aggregates

KINDS: Final = ("user", "session")
"""Kinds of entity whose events lie in one partition of the log, so that the job has all of them."""

_ITEM = "item."
_OF_ITEM = ("title", "category", "price", "available")
_TYPES: Final = {
    NumberPanes: "panes",
    AccumulatorPanes: "accumulators",
    DecayedTotals: "decayed",
    LastTimes: "last_time",
    RecentValues: "last_n",
    Sessions: "sessions",
}

_Data = dict[str, Any]


def entities_tag(definitions: Definitions) -> str:
    """Return the part of published rows that identifies the definitions."""
    return definitions.fingerprint[:16]


def entity_hash(kind: str, key: str) -> str:
    """Return the hash that stands for an entity in the topic of the erased."""
    return hashlib.sha256(f"{kind}:{key}".encode()).hexdigest()[:32]


def entity_kinds(definitions: Definitions) -> tuple[str, ...]:
    """Return the kinds of entity that a job of `definitions` publishes."""
    return tuple(kind for kind in KINDS if definitions.of_entity(kind))


def compile_entities(
    definitions: Definitions, options: FlinkOptions, *, file: str = "features"
) -> FlinkScript:
    """Compile the features of users and sessions to one job; others stay with the server.

    Raises:
        DefinitionError: names file, line and definition of the first that the job cannot compute,
            with the reason.
    """
    kinds = entity_kinds(definitions)
    if not kinds:
        raise DefinitionError(
            f"{file}: no feature is of a user or session: the server computes all of them"
        )
    if options.exactly_once:
        raise DefinitionError(
            f"{file}: packed values are written at least once, and again with the same content: "
            "leave out exactly_once"
        )
    features = [feature for kind in kinds for feature in definitions.of_entity(kind)]
    sources = {source for f in features for source in (f.of, f.group_by) if source is not None}
    _check_items(features, options, definitions.lines, file)
    spec: _Data = {
        "tag": entities_tag(definitions),
        "servers": options.servers,
        "kafka": dict(options.kafka),
        "topic": options.topic,
        "entities_topic": options.entities_topic,
        "erased_topic": options.erased_topic,
        "group": options.group_id,
        "delay_ms": options.watermark_delay_ms,
        "lateness_ms": options.allowed_lateness_ms,
        "dedupe_days": options.dedupe_days,
        "publish_ms": options.publish_ms,
        "look_ms": options.look_ms,
        "ends": None if options.end_offsets is None else _named(options.end_offsets),
        "apart": sorted({*STAGE_EVENTS, *emitted_types(definitions).values()}),
        "entities": [_entity(kind, definitions.of_entity(kind)) for kind in kinds],
        **_read(sources, options, sessions="session" in kinds),
    }
    # Flink else waits up to 100 ms for more to send between two operators.
    settings = options.execution() | {"execution.buffer-timeout.interval": "5 ms"}
    if options.state_backend == "rocksdb":
        # Most events of a large log are of users and ids that are new, or not read for long.
        settings["state.backend.rocksdb.use-bloom-filter"] = "true"
    statements = [f"SET {literal(key)} = {literal(value)}" for key, value in settings.items()]
    text = msgspec.json.encode(spec, order="deterministic").decode()
    return FlinkScript((*statements, f"ENTITIES {literal(text)}"))


def _named(offsets: Mapping[int, int]) -> dict[str, int]:
    return {str(partition): offset for partition, offset in offsets.items()}


def _check_items(
    features: Sequence[Feature], options: FlinkOptions, lines: Mapping[str, int], file: str
) -> None:
    for feature in features:
        of_item = [s for s in (feature.of, feature.group_by) if s is not None and s[:5] == _ITEM]
        if of_item and not options.catalogue:
            line = lines.get(feature.name)
            where = file if line is None else f"{file}:{line}"
            raise DefinitionError(
                f"{where}: {feature.name}: cannot be computed by Flink: {of_item[0]} needs the "
                "items, and catalogue is off"
            )


def _read(sources: set[str], options: FlinkOptions, *, sessions: bool) -> _Data:
    """Return the fields and properties of entries that the job reads."""
    of_items = {source.removeprefix(_ITEM) for source in sources if source.startswith(_ITEM)}
    categories, versions = "category" in sources and options.catalogue, bool(of_items)
    fields = sources & {"item_id", "session_id"}
    fields |= {"item_id"} if categories or versions else set()
    fields |= {"session_id"} if sessions else set()
    properties = {s.removeprefix(PROPERTIES) for s in sources if s.startswith(PROPERTIES)}
    properties |= {"category"} if "category" in sources else set()
    return {
        "fields": sorted(fields),
        "properties": sorted(properties | (of_items - {*_OF_ITEM})),
        "reads_categories": categories,
        "reads_versions": versions,
    }


def _entity(kind: str, features: Sequence[Feature]) -> _Data:
    aggregates = make_shared_aggregates(features, emits=False)
    spans = [aggregate.memory_ms for aggregate in aggregates]
    known = [span for span in spans if span is not None]
    return {
        "kind": kind,
        "memory_ms": max(known) if len(known) == len(spans) else None,
        "aggregates": [_aggregate(aggregate) for aggregate in aggregates],
    }


def _aggregate(aggregate: SharedAggregate) -> _Data:
    source = aggregate.source
    paned = [
        feature.window
        for feature in aggregate.features
        if isinstance(feature.window, PanedWindow) and feature.aggregate != "last_n"
    ]
    return {
        "key": aggregate.key,
        "events": [type_ for type_ in source.events if type_ != CUSTOM_EVENTS],
        "custom": CUSTOM_EVENTS in source.events,
        "amounts": source.amounts,
        "texts": source.texts,
        "grouped": source.grouped,
        "max_groups": source.max_groups,
        "memory_ms": aggregate.memory_ms,
        "always": len(paned) < len(aggregate.features),
        "windows": [_window(window) for window in dict.fromkeys(paned)],
        "columns": [_column(aggregate, key) for key in aggregate.columns],
    }


def _column(aggregate: SharedAggregate, key: str) -> _Data:
    column = aggregate.columns[key]
    # Features that share a column agree in all that its state depends on.
    feature = next(f for f in aggregate.features if column in aggregate.columns_of(f))
    window, length = feature.window, 0
    if isinstance(column, PanedColumn):
        length = column.slide_ms
    elif isinstance(window, ForwardDecay):
        length = window.half_life_ms
    elif isinstance(window, SessionWindow):
        length = window.gap_ms
    windows = column.windows if isinstance(column, PanedColumn) else []
    return {
        "key": key,
        "type": _TYPES[type(column)],
        "fold": aggregate.kinds[key],
        "length": length,
        "windows": [_window(window) for window in dict.fromkeys(windows)],
        "most": feature.n if isinstance(column, RecentValues) else feature.max_groups,
    }


def _window(window: PanedWindow) -> _Data:
    if isinstance(window, CumulativeWindow):
        panes = window.size_ms // window.step_ms
        return {"slide": window.step_ms, "panes": panes, "period": window.size_ms}
    return {"slide": slide_of(window), "panes": window.panes, "period": 0}
