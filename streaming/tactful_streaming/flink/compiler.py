"""Compiles definitions to one Flink SQL script: Kafka in, Kafka out, one job.

The log's topic is read once, as JSON entries. Its watermark follows events, by the earlier of
timestamp and receipt, and ticks, as in the engine, and is emitted with every entry, so that
lateness does not depend on the clock. Flink's watermark w excludes later events up to w, ours
events before w, so Flink's is a millisecond less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from tactful_streaming.contract.log_entries import DEVICE_PREFIX
from tactful_streaming.definitions.model import Definitions, Feature, Sequence
from tactful_streaming.errors import DefinitionError
from tactful_streaming.flink.entities import compile_entities
from tactful_streaming.flink.features import LISTS, NUMBERS, feature_statements
from tactful_streaming.flink.options import FlinkOptions, FlinkScript
from tactful_streaming.flink.sequences import (
    MATCHES,
    join_statements,
    sequence_statements,
)
from tactful_streaming.flink.sources import check_sources, describing
from tactful_streaming.flink.sql_text import CannotCompile, interval, literal
from tactful_streaming.flink.timing import ttl_settings, watermark_delay_ms

_FUNCTIONS: Final = {
    "json_text": "JsonText$Text",
    "json_number": "JsonText$Number",
    "json_string": "JsonText$Str",
    "item_versions": "ItemVersions",
    "pane_sums": "Panes$Collect",
    "decayed": "Panes$Decayed",
    "top_values": "TopValues",
    "last_values": "LastValues",
    "last_number": "LastNumber",
    "list_row": "JsonRows$ListRow",
    "distinct_hll": "HllDistinct",
    "quantile_kll": "KllQuantile",
    "collect_ids": "CollectIds",
    "silences": "Silences",
}
_SENDER = "sender, " + ", ".join(
    f"CASE WHEN sender IS NOT NULL THEN {column} END" for column in ("device_id", "user_id")
)  # an event id is unique within its sender, see `event_key`


def compile_flink(
    definitions: Definitions, options: FlinkOptions, *, file: str = "features"
) -> FlinkScript:
    """Compile all of `definitions` to one job, or the features that `options.output` asks for.

    Raises:
        DefinitionError: names file, line and definition of the first that Flink SQL cannot compute,
            with the reason.
    """
    if options.output == "entities":
        return compile_entities(definitions, options, file=file)
    if not definitions.all:
        raise DefinitionError(f"{file}: there is nothing to compile")
    views: list[str] = []
    inserts: list[str] = []
    delay_ms = watermark_delay_ms(definitions, options)
    for definition in definitions.all:
        try:
            check_sources(definition, options)
            if isinstance(definition, Feature):
                more, insert = feature_statements(definition, options.decay)
            elif isinstance(definition, Sequence):
                more, insert = sequence_statements(definition)
            else:
                more, insert = join_statements(definition, delay_ms)
        except CannotCompile as error:
            line = definitions.lines.get(definition.name)
            where = file if line is None else f"{file}:{line}"
            raise DefinitionError(
                f"{where}: {definition.name}: cannot be compiled to Flink SQL: {error}"
            ) from error
        views += more
        inserts.append(insert)
    described = bool(describing(definitions, options))
    views = [*_event_views(options, described=described), *views]
    statements = (
        *_settings(definitions, options),
        *_functions("\n".join([*views, *inserts])),
        _log_table(options, delay_ms),
        *_sinks(inserts, options),
        *views,
        "EXECUTE STATEMENT SET BEGIN\n\n" + "".join(f"{insert};\n\n" for insert in inserts) + "END",
    )
    return FlinkScript(statements)


def _settings(definitions: Definitions, options: FlinkOptions) -> Iterator[str]:
    settings = options.execution()
    settings["table.local-time-zone"] = "UTC"  # windows are aligned to the epoch
    if options.idle_timeout_ms:
        settings["table.exec.source.idle-timeout"] = f"{options.idle_timeout_ms} ms"
    settings |= dict(ttl_settings(definitions, options))
    for key, value in settings.items():
        yield f"SET {literal(key)} = {literal(value)}"


def _functions(text: str) -> Iterator[str]:
    for function, cls in _FUNCTIONS.items():
        if f"{function}(" in text:
            yield f"CREATE TEMPORARY SYSTEM FUNCTION {function} AS 'tactful.flink.{cls}'"


def _log_table(options: FlinkOptions, delay_ms: int) -> str:
    properties = {
        "connector": "kafka",
        "topic": options.topic,
        **_client(options),
        "properties.group.id": options.group_id,
        "scan.startup.mode": "earliest-offset",
        "scan.watermark.emit.strategy": "on-event",
        "format": "json",
        "json.ignore-parse-errors": "true",
    }
    if options.end_offsets is not None:
        properties["scan.bounded.mode"] = "specific-offsets"
        properties["scan.bounded.specific-offsets"] = ";".join(
            f"partition:{partition},offset:{offset}"
            for partition, offset in sorted(options.end_offsets.items())
        )
    delay = interval(delay_ms + 1)
    return f"""CREATE TEMPORARY TABLE `log` (
  kind STRING, event_id STRING, type STRING, `timestamp` BIGINT, received_at BIGINT,
  sender STRING, user_id STRING, device_id STRING, session_id STRING, item_id STRING,
  properties STRING,
  title STRING, category STRING, price DOUBLE,
  `partition` INT METADATA VIRTUAL, `offset` BIGINT METADATA VIRTUAL,
  reached AS LEAST(`timestamp`, COALESCE(received_at, `timestamp`)),
  et AS TO_TIMESTAMP_LTZ(`timestamp`, 3), arrival AS PROCTIME(),
  WATERMARK FOR et AS CASE WHEN kind IN ('event', 'tick')
    THEN TO_TIMESTAMP_LTZ(reached, 3) - {delay} END
) {_with(properties)}"""


def _event_views(options: FlinkOptions, *, described: bool) -> Iterator[str]:
    """Yield views from the log to ``events``, one row an event with all fields in use."""
    source = "`log`"
    kinds = "kind IN ('event', 'item')" if described else "kind = 'event'"
    if options.dedupe_days:
        # Not ROW_NUMBER: the planner of Flink 2.0 infers changing rows for it, also for the first
        # of each key by time of processing, and OVER, windows and patterns take only new rows.
        # Items are never duplicates.
        identity = "COALESCE(event_id, CAST(`offset` AS STRING))" if described else "event_id"
        yield f"""CREATE TEMPORARY VIEW once AS
SELECT * FROM (
  SELECT *, COUNT(*) OVER (PARTITION BY `partition`, {_SENDER}, {identity} ORDER BY arrival
    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS number
  FROM {source} WHERE {kinds}
) WHERE number = 1"""
        source = "once"
    category = "json_string(properties, 'category')"
    item = ""
    if described:
        # Every partition has all items, so events read items of their own partition: this follows
        # the order of the log, not the speed of reading. Events without an item are spread.
        yield f"""CREATE TEMPORARY VIEW described AS
SELECT *, item_versions(kind, `timestamp`, category, price, title, properties) OVER (
  PARTITION BY `partition`, COALESCE(item_id, CAST(MOD(`offset`, 64) AS STRING)) ORDER BY arrival
  ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS item
FROM {source} WHERE {kinds}"""
        source, kinds = "described", "kind = 'event'"
        known = "CASE WHEN item_id IS NOT NULL THEN item.{} END"
        category = f"COALESCE({category}, {known.format('newest_category')})"
        item = "".join(
            f",\n  {known.format(column)} AS item_{column}"
            for column in ("category", "title", "price", "properties")
        )
    yield f"""CREATE TEMPORARY VIEW events AS
SELECT `partition`, `offset`, event_id, type, `timestamp`, reached, session_id, item_id,
  properties, et, arrival, COALESCE(user_id, {literal(DEVICE_PREFIX)} || device_id) AS user_id,
  {category} AS category{item}
FROM {source} WHERE {kinds}"""


def _sinks(inserts: Iterable[str], options: FlinkOptions) -> Iterator[str]:
    value = "feature STRING, entity_key STRING, group_key STRING,\n"
    value += "  window_start BIGINT, window_end BIGINT, feature_value DOUBLE"
    match = "`sequence` STRING, entity_key STRING, `same` STRING,\n"
    match += "  `start` BIGINT, `end` BIGINT, `events` ARRAY<STRING>"
    tables = {
        NUMBERS: (options.features_topic, value, "json"),
        LISTS: (options.features_topic, "feature_row STRING", "raw"),
        MATCHES: (options.matches_topic, match, "json"),
    }
    used = {insert.split(maxsplit=3)[2] for insert in inserts}
    for table in (table for table in tables if table in used):
        topic, columns, value_format = tables[table]
        properties = {
            "connector": "upsert-kafka",
            "topic": topic,
            **_client(options),
            "key.format": "raw",
            "value.format": value_format,
            "value.fields-include": "EXCEPT_KEY",
        }
        if value_format == "json":
            properties["value.json.encode.ignore-null-fields"] = "true"
        if options.exactly_once:
            properties["sink.delivery-guarantee"] = "exactly-once"
            properties["sink.transactional-id-prefix"] = f"{options.group_id}-{table}"
        yield (
            f"CREATE TEMPORARY TABLE {table} (\n  kafka_key STRING, {columns},\n"
            f"  PRIMARY KEY (kafka_key) NOT ENFORCED\n) {_with(properties)}"
        )


def _client(options: FlinkOptions) -> dict[str, str]:
    named = {f"properties.{key}": value for key, value in options.kafka.items()}
    return {"properties.bootstrap.servers": options.servers, **named}


def _with(properties: Mapping[str, str]) -> str:
    lines = (f"  {literal(key)} = {literal(value)}" for key, value in properties.items())
    return "WITH (\n" + ",\n".join(lines) + "\n)"
