"""Compiled SQL: its text, quoting and refusals; other tests run it on Flink."""

import re

import pytest

from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import DefinitionError
from tactful_streaming.flink.compiler import compile_flink
from tactful_streaming.flink.options import FlinkOptions

OPTIONS = FlinkOptions("kafka:9092", "events")
OWN_TYPES = (
    "(type LIKE 'x.%' AND NOT type IN "
    "('x.stage_known', 'x.stage_new', 'x.stage_active', 'x.stage_lapsing', 'x.stage_lost'))"
)
COUNT = "- {name: f, entity: user, event: view, aggregate: count, window: {size: 1m}}"


def compiled(yaml: str, **options: object) -> str:
    settings = FlinkOptions("kafka:9092", "events", **options)  # type: ignore[arg-type]
    return compile_flink(load_definitions(yaml), settings).text


def inserted(yaml: str, **options: object) -> str:
    return compiled(yaml, **options).partition("EXECUTE STATEMENT SET BEGIN\n\n")[2]


def view(text: str, name: str) -> str:
    statement = re.search(rf"CREATE TEMPORARY VIEW `?{name}`? AS\n(.*?);\n\n", text, re.DOTALL)
    assert statement is not None, name
    return statement[1]


def test_a_hopping_count_is_readable_sql() -> None:
    text = inserted(
        "- {name: views_5m, entity: user, event: view, aggregate: count, group_by: item_id, "
        "window: {size: 5m, slide: 1m}}"
    )
    assert text == (
        "INSERT INTO features\n"
        "SELECT entity_key || '|' || group_key, 'views_5m', entity_key, group_key, "
        "(EXTRACT(EPOCH FROM window_start) * 1000 + EXTRACT(MILLISECOND FROM window_start)), "
        "(EXTRACT(EPOCH FROM window_end) * 1000 + EXTRACT(MILLISECOND FROM window_end)), "
        "CAST(COUNT(*) AS DOUBLE)\n"
        "FROM TABLE(HOP(TABLE `in_views_5m`, DESCRIPTOR(et), "
        "INTERVAL '0 00:01:00.000' DAY(3) TO SECOND(3), "
        "INTERVAL '0 00:05:00.000' DAY(3) TO SECOND(3)))\n"
        "GROUP BY entity_key, group_key, window_start, window_end;\n\n"
        "END;\n"
    )


def test_event_ids_are_compared_within_their_sender() -> None:
    sender = "sender, CASE WHEN sender IS NOT NULL THEN device_id END, "
    sender += "CASE WHEN sender IS NOT NULL THEN user_id END"
    assert f"(PARTITION BY `partition`, {sender}, event_id ORDER BY" in view(
        compiled(COUNT), "once"
    )


def test_gaps_of_a_pattern_take_no_event_of_a_step() -> None:
    text = compiled(
        "- {name: left, entity: user, within: 5m, "
        "sequence: [view, {event: add_to_cart, optional: true}, leave]}"
    )
    assert view(text, "found_left") == (
        "SELECT * FROM `in_left` MATCH_RECOGNIZE (\n"
        "  PARTITION BY entity_key, same_key ORDER BY et\n"
        "  MEASURES FIRST(s0_0.`timestamp`) AS `start`, LAST(s2_0.`timestamp`) AS `end`, "
        "ARRAY_REMOVE(ARRAY[LAST(s0_0.event_id), LAST(s1_0.event_id), LAST(s2_0.event_id)], "
        "CAST(NULL AS STRING)) AS `events`\n"
        "  ONE ROW PER MATCH AFTER MATCH SKIP PAST LAST ROW\n"
        "  PATTERN (s0_0 g0_0*? s1_0? g1_0*? s2_0) "
        "WITHIN INTERVAL '0 00:05:00.000' DAY(3) TO SECOND(3)\n"
        "  DEFINE\n"
        "    s0_0 AS s0_0.type = 'view',\n"
        "    g0_0 AS NOT (g0_0.type = 'add_to_cart' OR g0_0.type = 'leave'),\n"
        "    s1_0 AS s1_0.type = 'add_to_cart',\n"
        "    g1_0 AS LAST(s1_0.event_id) IS NOT NULL AND NOT (g1_0.type = 'leave'),\n"
        "    s2_0 AS s2_0.type = 'leave')"
    )


@pytest.mark.parametrize(
    ("sequence", "pattern"),
    [
        ("[view, leave], contiguity: strict", "s0_0 s1_0"),
        ("[{event: view, times: 2}, leave]", "s0_0 g0_0*? s0_1 g0_1*? s1_0"),
        ("[{event: view, times: [1, 3]}, leave]", "s0_0 g0_0*? s0_1? g0_1*? s0_2? g0_2*? s1_0"),
        # Whole as soon as what is left may be empty: the rest can never take part.
        ("[view, {event: leave, times: [2, 5]}]", "s0_0 g0_0*? s1_0 g1_0*? s1_1"),
        ("[view, leave, {event: click, optional: true}]", "s0_0 g0_0*? s1_0"),
        ("[view, any]", "s0_0 s1_0"),
        ("[view, {not: any}, leave]", "s0_0 s1_0"),
        ("[{event: view, times: [2, null]}, leave]", "s0_0 g0_0*? s0_1 g0_1*? s1_0"),
        # A forbidden event before what may be missing: the first of them, and what follows it.
        (
            "[view, {event: click, optional: true}, {not: purchase}, leave]",
            "s0_0 g0_0*? b0_0? r0_0*? s1_0? g1_0*? s2_0",
        ),
    ],
)
def test_patterns(sequence: str, pattern: str) -> None:
    text = compiled(f"- {{name: s, entity: user, sequence: {sequence}, within: 1m}}")
    assert f"PATTERN ({pattern}) WITHIN" in text


@pytest.mark.parametrize(
    ("silence", "due", "wait"),
    [
        ("{not: purchase, for: 10m}", "`end` + 600000", "0 00:10"),
        ("{not: purchase}", "`start` + 3600000", "0 01:00"),
    ],
)
def test_a_match_before_a_last_not_waits(silence: str, due: str, wait: str) -> None:
    yaml = f"- {{name: s, entity: user, sequence: [view, {silence}], within: 1h"
    text = compiled(yaml + "}")
    assert "SKIP TO NEXT ROW" in view(text, "begun_s")
    assert f"{due} AS due FROM `begun_s`" in view(text, "waiting_s")
    assert f"INTERVAL '{wait}:00.001' DAY(3) TO SECOND(3)))" in view(text, "waiting_s")
    assert "due, TRUE) OVER (" in view(text, "settled_s")
    assert "due, FALSE) OVER (" in view(compiled(yaml + ", skip: to_next}"), "settled_s")


@pytest.mark.parametrize(
    ("window", "function"),
    [
        ("{size: 5m}", "TUMBLE(TABLE `in_f`, DESCRIPTOR(et), INTERVAL '0 00:05:00.000'"),
        ("{size: 1d, step: 1h}",
         "CUMULATE(TABLE `in_f`, DESCRIPTOR(et), INTERVAL '0 01:00:00.000'"),
        ("{gap: 1500ms}", "SESSION(TABLE `in_f` PARTITION BY (entity_key), DESCRIPTOR(et), "
                          "INTERVAL '0 00:00:01.500'"),
        # An approximate tail holds one pane more.
        ("{size: 30d, tail: approximate}", "INTERVAL '31 00:00:00.000' DAY(3) TO SECOND(3))"),
    ],
)  # fmt: skip
def test_windows(window: str, function: str) -> None:
    text = inserted(f"- {{name: f, entity: user, event: view, aggregate: count, window: {window}}}")
    assert function in text


def test_decay_can_be_added_up_from_panes() -> None:
    yaml = (
        "- {name: f, entity: user, event: view, aggregate: count, "
        "window: {size: 5m, slide: 1m, decay: 0.8}}"
    )
    assert "decayed(pane_sums(1.0E0, `timestamp`, CAST(60000 AS BIGINT))" in inserted(yaml)
    text = compiled(yaml, decay="panes")
    assert "TUMBLE(TABLE `in_f`" in view(text, "panes_f")
    assert "HOP(TABLE `panes_f`, DESCRIPTOR(pane_time)" in text
    assert "SUM(amounts * POWER(0.8E0, " in text
    assert "pane_sums" not in text


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
@pytest.mark.parametrize("decay", ["exact", "panes"])
def test_rows_beyond_a_double_are_left_out(aggregate: str, decay: str) -> None:
    """A sum that overflows and a mean without weight are no rows."""
    for window in ("{size: 5m}", "{gap: 5m}", "{size: 5m, slide: 1m, decay: 0.8}"):
        yaml = (
            f"- {{name: f, entity: user, event: view, aggregate: {aggregate}, of: properties.a, "
            f"window: {window}}}"
        )
        text = compiled(yaml, decay=decay)
        assert "BETWEEN -1.7976931348623157e+308 AND 1.7976931348623157e+308" in text
        panes = decay == "panes" and "decay" in window and aggregate == "mean"
        assert ("1.0E-290" in text) is panes


def test_property_names_are_quoted() -> None:
    for name in ("it's", "'';DROP", "`x`", '"y"', "a;b--", "naïve/*"):
        yaml = (
            f"- {{name: f, entity: user, event: view, aggregate: sum, window: {{size: 1m}}, of: "
            f'"properties.{name.replace(chr(34), chr(92) + chr(34))}"}}'
        )
        quoted = name.replace("'", "''")
        assert f"json_number(properties, '{quoted}')" in compiled(yaml)


def test_options_are_quoted_too() -> None:
    kafka = {"sasl.jaas.config": "x required password='p';"}
    text = compiled(COUNT, kafka=kafka, end_offsets={1: 20, 0: 10})
    assert "'properties.sasl.jaas.config' = 'x required password=''p'';'" in text
    assert "'scan.bounded.specific-offsets' = 'partition:0,offset:10;partition:1,offset:20'" in text


def test_the_watermark_is_a_millisecond_behind() -> None:
    assert (
        "WATERMARK FOR et AS CASE WHEN kind IN ('event', 'tick')\n"
        "    THEN TO_TIMESTAMP_LTZ(reached, 3) - INTERVAL '0 00:00:05.001' DAY(3) TO SECOND(3) END"
    ) in compiled(COUNT, watermark_delay_ms=5000, allowed_lateness_ms=0)


LAST = "- {name: g, entity: user, event: view, aggregate: last_time}\n"
RECENT = "- {name: r%d, entity: user, event: view, aggregate: last_n, of: item_id, n: 2%s}\n"
WAIT = "- {name: s, entity: user, sequence: [view, {not: purchase, for: %s}], within: 1h}\n"
OF_ITEM = COUNT.replace("f,", "h,").replace("count", "count, group_by: item.title") + "\n"


def lifetimes(yaml: str, **options: object) -> dict[str, str]:
    """Lifetimes of state by function; ``table.exec``: that of all without our runner."""
    found = re.findall(r"SET '(.*)\.state\.ttl(.*)' = '(.*)'", compiled(yaml, **options))
    return {function.lstrip(".") or place: days for place, function, days in found}


@pytest.mark.parametrize("lasting", ["", LAST, OF_ITEM, RECENT % (0, "")])
def test_event_ids_have_a_lifetime_of_their_own(lasting: str) -> None:
    yaml = COUNT + "\n" + lasting
    common = {} if lasting else {"table.exec": "7 d"}
    assert lifetimes(yaml) == {"count": "7 d"} | common
    assert lifetimes(yaml, dedupe_days=0) == {}


def test_the_lifetime_of_a_wait_exceeds_it() -> None:
    def waits(wait: str, **options: object) -> dict[str, str]:
        return lifetimes(WAIT % wait, **options)

    assert waits("6d") == {"count": "7 d", "silences": "14 d", "table.exec": "14 d"}
    assert waits("30d", dedupe_days=90)["silences"] == "38 d"
    assert waits("30d", dedupe_days=90)["table.exec"] == "90 d"
    assert waits("30d", dedupe_days=0) == {"silences": "38 d", "table.exec": "38 d"}
    assert waits("30d", watermark_delay_ms=86_400_000)["silences"] == "39 d"
    assert lifetimes(WAIT % "6d" + LAST) == {"count": "7 d", "silences": "14 d"}
    assert "silences" not in lifetimes(
        "- {name: s, entity: user, sequence: [view, leave], within: 1h}"
    )


def test_newest_values_have_a_lifetime_if_all_have_a_window() -> None:
    windows = ", window: {size: 30d}", ", window: {size: 2d}"
    first, second = (RECENT % (n, window) for n, window in enumerate(windows))
    assert lifetimes(first + second)["last_values"] == "38 d"
    assert lifetimes(first + second)["table.exec"] == "38 d"
    assert lifetimes(first + RECENT % (2, "")) == {"count": "7 d"}


def test_only_windows_wait_for_late_events() -> None:
    def watermark(yaml: str) -> str:
        text = compiled(yaml, watermark_delay_ms=5000, allowed_lateness_ms=60_000)
        return text.partition("THEN TO_TIMESTAMP_LTZ(reached, 3) - ")[2].partition(" DAY")[0]

    join = "- {name: j, entity: user, join: {event: view, with: item_updates, within: 9s}}\n"
    for yaml in (LAST, WAIT % "5m", RECENT % (0, ", window: {size: 2d}"), join):
        assert watermark(yaml) == "INTERVAL '0 00:00:05.001'"
        assert watermark(f"{yaml}{COUNT}") == "INTERVAL '0 00:01:05.001'"
    assert "reached - 5000) AS heard" in compiled(join, watermark_delay_ms=5000)


def test_items_are_joined_only_if_needed() -> None:
    yaml = (
        "- {name: f, entity: user, event: view, aggregate: count, group_by: %s, window: {size: 1m}}"
    )
    assert "item_versions(" not in compiled(yaml % "item_id")
    assert "item_versions(" in compiled(yaml % "category")
    assert "item_versions(" in compiled(yaml % "item.brand")
    assert "item_versions(" not in compiled(yaml % "category", catalogue=False)


def test_statements_are_in_script_order() -> None:
    statements = compile_flink(load_definitions(COUNT), OPTIONS).statements
    kinds = [re.match(r"SET|CREATE TEMPORARY SYSTEM|CREATE|EXECUTE", text) for text in statements]
    words = [kind[0] for kind in kinds if kind is not None]
    order = ["SET", "CREATE TEMPORARY SYSTEM", "CREATE", "EXECUTE"]
    assert words == sorted(words, key=order.index) and len(words) == len(kinds)


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ("event: view, aggregate: count, window: {half_life: 1d}", "forward decay has no windows"),
        ("event: view, aggregate: count, window: {size: 1000d}", "999 days"),
        ("event: view, aggregate: count, group_by: item.available, window: {size: 1d}",
         "item.available is neither text nor number"),
        ("within: 1h, sequence: [{event: view, times: [1, 2]}, {not: leave, for: 1m}]",
         "the number of events must be fixed"),
        ("within: 1h, sequence: [view, {event: click, times: 2, optional: true}, leave, "
         "{not: purchase}]", "must not need more than one event"),
        ("within: 1h, sequence: [view, {not: leave}, {event: click, optional: true}]",
         "must be the last step"),
        ("within: 1h, sequence: [{event: view, times: [1, null]}, {not: leave}, click]",
         "repeated without limit"),
        ("within: 1h, sequence: [view, {not: leave}, {event: click, optional: true}, "
         "{not: purchase}, {event: search, optional: true}, {not: refund}, payment]",
         "several `not`s"),
        ("within: 1h, sequence: [{event: view, times: 100}, {event: click, times: 100}, "
         "{event: view, times: 100}]", "at most 200"),
        ("within: 2000d, sequence: [view, leave]", "999 days"),
    ],
)  # fmt: skip
def test_refused_definitions_name_line_and_reason(definition: str, reason: str) -> None:
    yaml = (
        "- {name: fine, entity: user, event: view, aggregate: last_time}\n"
        f"- {{name: bad, entity: user, {definition}}}\n"
    )
    with pytest.raises(DefinitionError, match=r"^shop\.yaml:2: bad: cannot be compiled") as error:
        compile_flink(load_definitions(yaml), OPTIONS, file="shop.yaml")
    assert reason in str(error.value)


def test_without_catalogue_item_sources_are_refused() -> None:
    for definition in (
        "event: view, aggregate: sum, of: item.price, window: {size: 1m}",
        "join: {event: view, with: item_updates}",
    ):
        with pytest.raises(DefinitionError, match="catalogue is off"):
            compiled(f"- {{name: f, entity: user, {definition}}}", catalogue=False)


def test_empty_definitions_are_refused() -> None:
    with pytest.raises(DefinitionError, match="nothing to compile"):
        compile_flink(Definitions(()), OPTIONS)


@pytest.mark.parametrize(
    ("event", "condition"),
    [
        ("x.*", f"WHERE {OWN_TYPES}"),
        ("[view, x.*]", f"WHERE (type = 'view' OR {OWN_TYPES})"),
        ("[view, click, x.*]", f"WHERE (type IN ('view', 'click') OR {OWN_TYPES})"),
    ],
)
def test_all_custom_types_are_a_pattern(event: str, condition: str) -> None:
    text = compiled(
        f"- {{name: n, entity: user, event: {event}, aggregate: count, window: {{size: 1h}}}}"
    )
    assert condition in text


def test_a_feature_is_grouped_by_the_day_of_the_event() -> None:
    text = compiled("- {name: n, entity: user, event: view, aggregate: last_time, group_by: day}")
    assert "DATE_FORMAT(et, 'yyyy-MM-dd') AS group_key" in text
