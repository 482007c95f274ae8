"""Features as windowed aggregations of Flink SQL."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tactful_streaming.definitions import model as d
from tactful_streaming.definitions.model import Feature, Window
from tactful_streaming.flink import sql_text as sql
from tactful_streaming.flink.options import DecayPlan

NUMBERS = "features"
"""The table of features that are a number."""

LISTS = "feature_lists"
"""The table of features that are a list."""

_NUMERIC = ("sum", "mean", "min", "max", "last", "quantile")
_LISTED = ("top_k", "last_n")
_TIME = "`timestamp`"


def feature_statements(feature: Feature, decay_plan: DecayPlan) -> tuple[list[str], str]:
    """Compile a feature to views and the INSERT of its values."""
    source = sql.name(f"in_{feature.name}")
    views = [f"CREATE TEMPORARY VIEW {source} AS\n{_source(feature)}"]
    if feature.aggregate in ("last_time", "last_n"):
        return views, _latest(feature, source)
    if isinstance(feature.window, d.ForwardDecay):
        raise sql.CannotCompile(
            "forward decay has no windows that end, so there is no stream of results: use a "
            "window with decay"
        )
    if decay_plan == "panes" and isinstance(feature.window, Window) and feature.window.decay != 1:
        panes = sql.name(f"panes_{feature.name}")
        views.append(f"CREATE TEMPORARY VIEW {panes} AS\n{_panes(feature, feature.window, source)}")
        return views, _of_panes(feature, feature.window, panes)
    return views, _windowed(feature, source)


def _source(feature: Feature) -> str:
    """Compile the query of the events that count, with their key, group and value."""
    columns = [f"{sql.entity_column(feature.entity)} AS entity_key"]
    if feature.group_by is not None:
        columns.append(f"{sql.text_of(feature.group_by)} AS group_key")
    if feature.of is not None:
        of = sql.number_of(feature.of) if feature.aggregate in _NUMERIC else sql.text_of(feature.of)
        columns.append(f"{of} AS of_value")
    needed = [column.rpartition(" AS ")[2] for column in columns]
    return (
        f"SELECT * FROM (SELECT {', '.join(columns)}, {_TIME}, et, arrival FROM events\n"
        f"  WHERE {_counted(feature.events)})\n"
        f"WHERE {' AND '.join(f'{column} IS NOT NULL' for column in needed)}"
    )


def _counted(events: Sequence[str]) -> str:
    """Compile the condition that an event is of one of the types; ``x.*`` is any custom one."""
    named = [type_ for type_ in events if type_ != d.CUSTOM_EVENTS]
    conditions = [sql.one_of("type", named)] if named else []
    if d.CUSTOM_EVENTS in events:
        stages = sql.one_of("type", d.STAGE_EVENTS)
        conditions.append(f"(type LIKE '{d.CUSTOM_PREFIX}%' AND NOT {stages})")
    return f"({' OR '.join(conditions)})" if len(conditions) > 1 else conditions[0]


def _windowed(feature: Feature, source: str) -> str:
    start, end = sql.milliseconds_of("window_start"), sql.milliseconds_of("window_end")
    return (
        f"{_insert(feature, start, end, _value(feature))}\n"
        f"FROM TABLE({_table_function(feature, source)})\n"
        f"GROUP BY {', '.join(_keys(feature))}, window_start, window_end"
        f"{_only_finite(feature, _value(feature))}"
    )


def _only_finite(feature: Feature, value: str) -> str:
    """Compile the condition that a sum or mean is within the range of a double."""
    if feature.aggregate not in ("sum", "mean"):
        return ""
    greatest = sql.double(sys.float_info.max)
    return f"\nHAVING {value} BETWEEN -{greatest} AND {greatest}"


def _table_function(feature: Feature, source: str) -> str:
    window, time = feature.window, "DESCRIPTOR(et)"
    if isinstance(window, d.SessionWindow):
        by = ", ".join(_keys(feature))
        return f"SESSION(TABLE {source} PARTITION BY ({by}), {time}, {sql.interval(window.gap_ms)})"
    if isinstance(window, d.CumulativeWindow):
        step, size = sql.interval(window.step_ms), sql.interval(window.size_ms)
        return f"CUMULATE(TABLE {source}, {time}, {step}, {size})"
    assert isinstance(window, Window)
    if window.panes == 1:
        return f"TUMBLE(TABLE {source}, {time}, {sql.interval(window.size_ms)})"
    slide, span = sql.interval(window.slide_ms), sql.interval(window.span_ms)
    return f"HOP(TABLE {source}, {time}, {slide}, {span})"


def _value(feature: Feature) -> str:
    window, aggregate = feature.window, feature.aggregate
    if aggregate == "top_k":
        return f"top_values(of_value, {feature.n})"
    if isinstance(window, Window) and window.decay != 1:
        if aggregate == "mean":
            decay = sql.double(window.decay)
            sums, counts = _pane_sums("of_value", window), _pane_sums("1.0E0", window)
            return f"decayed({sums}, {decay}) / decayed({counts}, {decay})"
        return _decayed("1.0E0" if aggregate == "count" else "of_value", window)
    if aggregate == "distinct":
        exact = feature.sketch == "exact"
        return "CAST(COUNT(DISTINCT of_value) AS DOUBLE)" if exact else "distinct_hll(of_value)"
    if aggregate == "last":
        return f"last_number(of_value, {_TIME})"
    if aggregate == "quantile":
        assert feature.q is not None
        return f"quantile_kll(of_value, {sql.double(feature.q)})"
    return {
        "count": "CAST(COUNT(*) AS DOUBLE)",
        "sum": "SUM(of_value)",
        "mean": "AVG(of_value)",
        "min": "MIN(of_value)",
        "max": "MAX(of_value)",
    }[aggregate]


def _decayed(amount: str, window: Window) -> str:
    """Compile a sum of panes, with weights that decay by age.

    The weight depends on the end of the window, which is unknown inside an aggregation: that
    returns the sums of the panes, and `decayed` weighs them.
    """
    slide, sums = _slide(window), _pane_sums(amount, window)
    end = sql.milliseconds_of("window_end")
    return f"decayed({sums}, {end}, {slide}, {sql.double(window.decay)})"


def _pane_sums(amount: str, window: Window) -> str:
    return f"pane_sums({amount}, {_TIME}, {_slide(window)})"


def _slide(window: Window) -> str:
    return f"CAST({window.slide_ms} AS BIGINT)"


def _panes(feature: Feature, window: Window, source: str) -> str:
    keys = ", ".join(_keys(feature))
    return (
        f"SELECT {keys}, window_time AS pane_time, CAST(COUNT(*) AS DOUBLE) AS amounts"
        f"{', SUM(of_value) AS total' if feature.of is not None else ''}\n"
        f"FROM TABLE(TUMBLE(TABLE {source}, DESCRIPTOR(et), {sql.interval(window.slide_ms)}))\n"
        f"GROUP BY {keys}, window_start, window_end, window_time"
    )


def _of_panes(feature: Feature, window: Window, panes: str) -> str:
    """Compile a decayed window from its panes: TUMBLE, then HOP over ``window_time``."""
    # A pane's window_time is its end less a millisecond; the newest pane of a window has age 0.
    end = sql.milliseconds_of("window_end")
    pane = sql.milliseconds_of("CAST(pane_time AS TIMESTAMP(3))")
    age = f"(({end} - 1 - {pane}) / {window.slide_ms})"
    # Two factors, as the weight may be too small for a double.
    halves = f"{age} / 2", f"{age} - {age} / 2"
    decay = sql.double(window.decay)
    weight = " * ".join(f"POWER({decay}, CAST({half} AS DOUBLE))" for half in halves)
    counts, sums = f"SUM(amounts * {weight})", f"SUM(total * {weight})"
    value = {"count": counts, "sum": sums, "mean": f"{sums} / {counts}"}[feature.aggregate]
    slide, span = sql.interval(window.slide_ms), sql.interval(window.span_ms)
    return (
        f"{_insert(feature, sql.milliseconds_of('window_start'), end, value)}\n"
        f"FROM TABLE(HOP(TABLE {panes}, DESCRIPTOR(pane_time), {slide}, {span}))\n"
        f"GROUP BY {', '.join(_keys(feature))}, window_start, window_end"
        f"{_only_finite(feature, value)}"
        # A mean of weights this small would lose its digits.
        f"{f' AND {counts} >= 1.0E-290' if feature.aggregate == 'mean' else ''}"
    )


def _latest(feature: Feature, source: str) -> str:
    """Compile a feature without a window: start and end are of the newest event."""
    newest = f"MAX({_TIME}) OVER so_far"
    value = f"CAST({newest} AS DOUBLE)"
    if feature.aggregate == "last_n":
        value = f"last_values(of_value, {_TIME}, {feature.n}) OVER so_far"
    # Not GROUP BY, which also emits retractions of old values.
    return (
        f"{_insert(feature, newest, newest, value)}\n"
        f"FROM {source} WINDOW so_far AS (PARTITION BY {', '.join(_keys(feature))} "
        "ORDER BY arrival\n  ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
    )


def _insert(feature: Feature, start: str, end: str, value: str) -> str:
    """Compile the beginning of an INSERT: table and columns."""
    feature_name = sql.literal(feature.name)
    if feature.aggregate in _LISTED:
        row = f"list_row({feature_name}, entity_key, {start}, {end}, {value})"
        return f"INSERT INTO {LISTS}\nSELECT entity_key || '|', {row}"
    group = "group_key" if feature.group_by is not None else "CAST(NULL AS STRING)"
    kafka_key = "entity_key || '|'" + (" || group_key" if feature.group_by is not None else "")
    columns = f"{kafka_key}, {feature_name}, entity_key, {group}, {start}, {end}, {value}"
    return f"INSERT INTO {NUMBERS}\nSELECT {columns}"


def _keys(feature: Feature) -> list[str]:
    return ["entity_key"] + (["group_key"] if feature.group_by is not None else [])
