"""Compiled jobs on Flink in one JVM, with results checked by hand or counting.

Another test compares whole definition files with brute force and the engine, row by row. This one
checks properties of Flink that it depends on, and cases that random files omit.
"""

import math
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.streaming import flink_cluster
from tests.streaming.brokers import topic_name
from tests.streaming.flink_cluster import LocalFlink, make_topic, read_rows

from tactful_streaming.contract.log_entries import Entry, Event, Item, Tick
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import FlinkError
from tactful_streaming.flink.compiler import compile_flink
from tactful_streaming.flink.options import FlinkOptions
from tactful_streaming.flink.rest_client import build_runner

pytestmark = pytest.mark.service("kafka", "flink")

COUNT = "- {name: n, entity: user, event: view, aggregate: count, window: {size: 1m}}"
T0 = 1_700_000_040_000  # a whole minute
MINUTE = 60_000


@pytest.fixture(scope="module")
def flink(flink_home: Path) -> Iterator[LocalFlink]:
    with flink_cluster.local_flink(flink_home) as opened:
        yield opened


def event(number: int, type_: str, at: int, user: str | None = "ann", **fields: Any) -> Event:
    return Event(event_id=f"e{number}", type=type_, timestamp=T0 + at, user_id=user, **fields)


def run(
    flink: LocalFlink,
    servers: str,
    definitions: Definitions,
    partitions: list[list[Entry]],
    rows: int,
    matches: int = 0,
    **options: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run a job; expect exactly `rows` rows of features and `matches` matches."""
    log, features, match_topic = topic_name(), topic_name(), topic_name()
    ends = flink_cluster.write_log(servers, log, partitions)
    make_topic(servers, features)
    make_topic(servers, match_topic)
    settings = flink_cluster.job_options(servers, log, features, match_topic)
    script = compile_flink(definitions, replace(settings, end_offsets=ends, **options))
    flink.run(script.text)
    return read_rows(servers, features, rows), read_rows(servers, match_topic, matches)


@pytest.mark.slow
@pytest.mark.parametrize("decay", ["exact", "panes"])
def test_extreme_numbers_have_right_rows_or_none(
    decay: str, flink: LocalFlink, kafka_servers: str
) -> None:
    """Sums beyond a double have no row, and a mean is right at any age of its events."""
    of = "entity: user, event: purchase, of: properties.price, aggregate"
    definitions = load_definitions(
        f"- {{name: spent, {of}: sum, window: {{size: 1m}}}}\n"
        f"- {{name: usual, {of}: mean, window: {{size: 1d, slide: 1m, decay: 0.5}}}}\n"
    )

    log: list[Entry] = [
        event(number, "purchase", 0, user, properties={"price": price})
        for number, (user, price) in enumerate([("ann", 1e308), ("ann", 1e308), ("bob", 7.0)])
    ]
    log.append(Tick(timestamp=T0 + 3 * 24 * 60 * MINUTE))
    means = 1440 if decay == "exact" else 964  # of weights down to 1e-290
    rows, _ = run(flink, kafka_servers, definitions, [log], 1 + means, decay=decay)
    assert {(row["entity_key"], row["feature_value"]) for row in rows} == {("bob", 7.0)}


@pytest.mark.slow
def test_everything_by_hand(flink: LocalFlink, kafka_servers: str) -> None:
    definitions = load_definitions("""
- {name: n, entity: user, event: view, aggregate: count, window: {size: 2m, slide: 1m}}
- {name: w, entity: user, event: view, aggregate: count, window: {size: 2m, slide: 1m, decay: 0.5}}
- {name: spent, entity: user, event: purchase, aggregate: sum, of: "properties.it's`odd`;--",
   window: {size: 5m}}
- {name: paid, entity: user, event: purchase, aggregate: max, of: item.price, window: {size: 5m}}
- {name: top, entity: user, event: view, aggregate: top_k, of: category, n: 2, window: {size: 5m}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 2}
- {name: bought, entity: user, within: 5m, sequence: [view, {not: leave}, purchase]}
- {name: quiet, entity: user, within: 5m, sequence: [view, {not: view, for: 2m}]}
- {name: fresh, entity: user, join: {event: view, with: item_updates, within: 10s}}
""")
    odd = "it's`odd`;--"
    entries: list[Entry] = [
        Item(item_id="tea", timestamp=T0, price=3.0, category="drinks"),
        event(1, "view", 1_000, item_id="tea"),
        event(1, "view", 1_000, item_id="tea"),  # sent twice
        event(2, "view", 59_000, item_id="cup", properties={"category": "ware 🍵"}),
        event(3, "view", 61_000, item_id="tea"),
        event(4, "view", 58_000, item_id="tea"),  # late for the first window, not for the second
        Item(item_id="tea", timestamp=T0 + 90_000, price=4.0, category="drinks"),
        event(5, "purchase", 89_000, item_id="tea", properties={odd: 2.5}),
        event(6, "purchase", 95_000, item_id="tea", properties={odd: "2.5"}),  # text is no number
        Tick(timestamp=T0 + 10 * MINUTE),
        event(7, "view", 200_000, item_id="tea"),  # wholly late for all windows
    ]
    rows, matches = run(flink, kafka_servers, definitions, [entries], 3 + 3 + 1 + 1 + 2 + 5, 3)
    values = {
        (row["feature"], (row["window_end"] - T0) // MINUTE): row["feature_value"]
        for row in rows
        if row["feature"] in ("n", "w")
    }
    assert values == {
        ("n", 1): 2.0, ("n", 2): 4.0, ("n", 3): 1.0,
        ("w", 1): 2.0, ("w", 2): 1 + 0.5 * 3, ("w", 3): 0.5,
    }  # fmt: skip
    # Windows of five minutes are aligned to the epoch, not to the first event.
    (spent,) = [row for row in rows if row["feature"] == "spent"]
    assert spent["window_start"] % (5 * MINUTE) == 0
    assert [row["feature_value"] for row in rows if row["feature"] == "paid"] == [4.0]
    assert [row["feature_value"] for row in rows if row["feature"] == "top"] == [
        [["drinks", 1.0], ["ware 🍵", 1.0]],
        [["drinks", 1.0]],
    ]
    recent = [row["feature_value"] for row in rows if row["feature"] == "recent"]
    assert recent[-1] == [["tea", T0 + 200_000], ["tea", T0 + 61_000]]
    assert Counter((m["sequence"], tuple(m["events"])) for m in matches) == {
        ("bought", ("e1", "e5")): 1,
        ("quiet", ("e3",)): 1,
        ("fresh", ("e1",)): 1,
    }


@pytest.mark.slow
def test_event_ids_expire_by_themselves(flink: LocalFlink, kafka_servers: str) -> None:
    """An id counts again after its lifetime; what was read before it stays known."""
    definitions = load_definitions("""
- {name: n, entity: user, event: view, aggregate: count, window: {size: 1m}}
- {name: t, entity: user, event: view, aggregate: count, group_by: item.title, window: {size: 1m}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 4}
- {name: quiet, entity: user, within: 5m, sequence: [view, {not: view, for: 2m}]}
""")
    again = event(2, "view", 2_000, item_id="tea")
    first: list[Entry] = [
        Item(item_id="tea", timestamp=T0, title="Tea"),
        event(1, "view", 1_000, item_id="cup"),
        again,
        again,
    ]
    later: list[Entry] = [again, Tick(timestamp=T0 + 10 * MINUTE)]
    log, features, matches = topic_name(), topic_name(), topic_name()
    flink_cluster.write_log(kafka_servers, log, [first])
    make_topic(kafka_servers, features)
    make_topic(kafka_servers, matches)
    options = flink_cluster.job_options(kafka_servers, log, features, matches)
    ends = {0: len(first) + len(later)}
    script = compile_flink(definitions, replace(options, end_offsets=ends)).text
    lifetime = "'tactful.state.ttl.count' = "
    assert f"{lifetime}'7 d'" in script
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(flink.run, script.replace(f"{lifetime}'7 d'", f"{lifetime}'3 s'"))
        assert len(read_rows(kafka_servers, features, 2)) == 2  # of `recent`: no window has ended
        time.sleep(3)
        flink_cluster.append(kafka_servers, log, later)
        job.result()
    rows = read_rows(kafka_servers, features, 3 + 2)
    recent = [row["feature_value"] for row in rows if row["feature"] == "recent"]
    assert [[item for item, _ in texts] for texts in recent] == [
        ["cup"], ["tea", "cup"], ["tea", "tea", "cup"],
    ]  # fmt: skip
    counts = {
        (row["feature"], row.get("group_key")): row["feature_value"]
        for row in rows
        if row["feature"] != "recent"
    }
    assert counts == {("n", None): 3.0, ("t", "Tea"): 2.0}
    assert [row["sequence"] for row in read_rows(kafka_servers, matches, 1)] == ["quiet"]


@pytest.mark.slow
def test_partitions_do_not_mix_their_items_but_their_rows(
    flink: LocalFlink, kafka_servers: str
) -> None:
    definitions = load_definitions(
        "- {name: sold, entity: category, event: purchase, aggregate: count, window: {size: 1m}}"
    )
    partitions: list[list[Entry]] = [
        [
            Item(item_id="tea", timestamp=T0, category=category),
            *(event(10 * n + i, "purchase", i, f"u{n}", item_id="tea") for i in range(3)),
        ]
        for n, category in enumerate(["hot", "cold"])
    ]
    rows, _ = run(flink, kafka_servers, definitions, partitions, 2)
    assert {row["entity_key"]: row["feature_value"] for row in rows} == {"hot": 3.0, "cold": 3.0}


@pytest.mark.slow
def test_a_device_counts_as_a_user_of_its_own(flink: LocalFlink, kafka_servers: str) -> None:
    definitions = load_definitions(COUNT)
    entries: list[Entry] = [
        event(1, "view", 0, None, device_id="d|1"),
        event(2, "view", 1, "ann", device_id="d|1"),
    ]
    rows, _ = run(flink, kafka_servers, definitions, [entries], 2)
    assert {row["entity_key"] for row in rows} == {"device:d|1", "ann"}


@pytest.mark.slow
def test_hll_counts_within_two_percent_and_few_exactly(
    flink: LocalFlink, kafka_servers: str
) -> None:
    definitions = load_definitions(
        "- {name: n, entity: category, event: view, aggregate: distinct_users, "
        "window: {size: 2m, slide: 1m}}"
    )
    draw = random.Random(7)
    sizes = {"few": 200, "some": 2_000, "many": 20_000}
    entries: list[Entry] = []
    for category, size in sizes.items():
        for user in range(size):
            for _ in range(1 + (user % 3 == 0)):
                at = draw.randrange(MINUTE)
                entries.append(
                    event(len(entries), "view", at, f"{category}{user}",
                          properties={"category": category})
                )  # fmt: skip
    rows, _ = run(flink, kafka_servers, definitions, [entries], 6, watermark_delay_ms=MINUTE)
    for row in rows:
        size = sizes[row["entity_key"]]
        assert math.isclose(row["feature_value"], size, rel_tol=0.0 if size == 200 else 0.04)
    # The same users in both windows: the sketch of a pane is counted once, and merged with nothing.
    assert len({(row["entity_key"], row["feature_value"]) for row in rows}) == 3


@pytest.mark.slow
def test_decay_from_panes_agrees_where_nothing_is_late(
    flink: LocalFlink, kafka_servers: str
) -> None:
    definitions = load_definitions("""
- {name: a, entity: user, event: view, aggregate: mean, of: properties.x,
   window: {size: 5m, slide: 1m, decay: 0.7}}
- {name: b, entity: user, event: view, aggregate: count, group_by: item_id,
   window: {size: 3m, slide: 30s, decay: 0.9}}
""")
    draw = random.Random(3)
    entries: list[Entry] = [
        event(n, "view", n * 2_000, f"u{draw.randrange(3)}", item_id=f"i{draw.randrange(3)}",
              properties={"x": draw.random()})
        for n in range(200)
    ]  # fmt: skip
    exact, _ = run(flink, kafka_servers, definitions, [entries], 0)
    panes, _ = run(flink, kafka_servers, definitions, [entries], len(exact), decay="panes")
    assert len(exact) > 100
    assert _by_window(exact) == pytest.approx(_by_window(panes), rel=1e-9)


def _by_window(rows: list[dict[str, Any]]) -> dict[str, float]:
    encode = msgspec.json.encode
    return {encode({**row, "feature_value": 0}).decode(): row["feature_value"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_topics_are_read_with_any_compression(
    flink: LocalFlink, kafka_servers: str, codec: str
) -> None:
    definitions = load_definitions(COUNT)
    log, features = topic_name(), topic_name()
    views: list[Entry] = [event(n, "view", n) for n in range(50)]
    ends = flink_cluster.write_log(kafka_servers, log, [views], codec=codec)
    make_topic(kafka_servers, features)
    options = FlinkOptions(
        kafka_servers, log, features_topic=features, group_id=log, end_offsets=ends
    )
    flink.run(compile_flink(definitions, options).text)
    assert [row["feature_value"] for row in read_rows(kafka_servers, features, 1)] == [50.0]


@pytest.mark.slow
def test_a_script_that_flink_refuses_is_an_error(flink: LocalFlink) -> None:
    with pytest.raises(AssertionError, match="nowhere"):
        flink.run("INSERT INTO nowhere SELECT 1;")
    with pytest.raises(AssertionError, match="inserts nothing"):
        flink.run("SET 'a' = 'b'; -- ; INSERT\n/* ; */")
    # A lifetime that no state takes would else be a state that stays for ever.
    with pytest.raises(AssertionError, match=r"no OVER aggregation has \[silences\]"):
        flink.run(
            "SET 'tactful.state.ttl.silences' = '1 d';\n"
            "CREATE TEMPORARY TABLE made (a INT) WITH ('connector' = 'datagen', "
            "'number-of-rows' = '1');\n"
            "CREATE TEMPORARY TABLE nowhere (a INT) WITH ('connector' = 'blackhole');\n"
            "INSERT INTO nowhere SELECT a FROM made;"
        )


@pytest.mark.slow
def test_the_runner_is_rebuilt_after_changes(flink_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "lib").symlink_to(flink_home / "lib")
    sources = tmp_path / "src"
    shutil.copytree(Path(__file__).parents[3] / "streaming" / "flink" / "src", sources)
    jar = build_runner(home, sources=sources)
    before = jar.stat()
    assert build_runner(home, sources=sources) == jar and jar.stat() == before
    listed = subprocess.run(["jar", "tf", str(jar)], capture_output=True, text=True, check=True)
    assert "tactful/flink/ScriptRunner.class" in listed.stdout.splitlines()
    broken = sources / "tactful" / "flink" / "SqlScript.java"
    broken.write_text(broken.read_text() + "// changed\n")
    assert build_runner(home, sources=sources) != jar
    broken.write_text("class {")
    with pytest.raises(FlinkError, match="does not compile"):
        build_runner(home, sources=sources)
    with pytest.raises(FlinkError, match="no Java sources"):
        build_runner(home, sources=tmp_path / "nothing")
    with pytest.raises(FlinkError, match="no Flink in lib"):
        build_runner(tmp_path, sources=sources)
