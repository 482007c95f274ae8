"""The oracle and Flink: random definitions over random logs agree row by row.

Flink starts once and runs one script for each log, with all definitions in it. What Flink cannot
compute is left out, and why has to be one of the known reasons.
"""

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.streaming.flink_cluster import LocalFlink, local_flink, make_topic, read_rows, write_log
from tests.streaming.gate import UNWINDOWED, Results, by_oracle, differences, only
from tests.streaming.random_definitions import random_definitions, random_sequences
from tests.streaming.random_streams import random_stream, with_end, with_items_in_order

import tactful_streaming.definitions.model as model
from tactful_streaming.contract.log_entries import Entry
from tactful_streaming.definitions.model import Definitions, Window
from tactful_streaming.errors import DefinitionError
from tactful_streaming.flink.compiler import compile_flink
from tactful_streaming.flink.options import FlinkOptions

pytestmark = [pytest.mark.service("flink"), pytest.mark.service("kafka")]

Record = Callable[[str, object], None]

BEYOND_SQL = (
    "forward decay",
    "strict contiguity with a step repeated without limit",
    "before a last `not` the number of events must be fixed",
    "before a last `not` an optional step must not need more than one event",
    "a `not` directly after a step that is repeated without limit",
)


@pytest.fixture(scope="module")
def flink(flink_home: Path) -> Iterator[LocalFlink]:
    with local_flink(flink_home) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "seed",
    [*range(100, 105), *(pytest.param(it, marks=pytest.mark.long) for it in range(105, 111))],
)
def test_flink_agrees(
    seed: int, flink: LocalFlink, kafka_servers: str, record_property: Record
) -> None:
    check(seed, flink, kafka_servers, record_property, features=14, entries=3000)


@pytest.mark.slow
def test_flink_finds_every_silence(flink: LocalFlink, kafka_servers: str) -> None:
    definitions = Definitions((), silent_sequences(random.Random(1), 12))
    assert {sequence.skip for sequence in definitions.sequences} == {"past_last", "to_next"}
    log = with_end(random_stream(1, 1200))
    expected = by_oracle(definitions, log, 5000)
    got = by_flink(flink, kafka_servers, definitions, log, 5000, expected)
    assert differences(definitions, expected, got) == []
    assert len({name for name, *_ in expected.found}) > 6
    assert expected.found.total() > 100


def silent_sequences(rng: random.Random, count: int) -> tuple[model.Sequence, ...]:
    """Sequences that end with a ``not`` and that Flink can find."""
    found: list[model.Sequence] = []
    while len(found) < count:
        (sequence,) = random_sequences(rng, 1)
        sequence = replace(sequence, name=f"s{len(found)}")
        if sequence.steps[-1].negated and compilable(Definitions((), (sequence,)))[0].sequences:
            found.append(sequence)
    return tuple(found)


def check(
    seed: int, flink: LocalFlink, servers: str, record: Record, *, features: int, entries: int
) -> None:
    """Compare one log, and record how many rows were compared and how many differ."""
    definitions, refusals = compilable(random_definitions(seed, features, sequences=3, joins=1))
    assert all(any(reason in refusal for reason in BEYOND_SQL) for refusal in refusals), refusals
    delay = random.Random(seed).choice([0, 5000, 60_000])
    # After an older update that comes later, Flink's job and the engine disagree about which is the
    # newest, and so about the category of events that have none of their own.
    log = with_end(with_items_in_order(random_stream(seed, entries)))
    expected = by_oracle(definitions, log, delay)
    got = by_flink(flink, servers, definitions, log, delay, expected)
    different = differences(definitions, expected, got)
    record("rows_compared", len(expected.fired) + len(expected.latest) + len(expected.found))
    record("rows_different", len(different))
    assert different == []
    assert len(expected.fired) > 300
    assert expected.found


def by_flink(
    flink: LocalFlink,
    servers: str,
    definitions: Definitions,
    entries: Sequence[Entry],
    delay: int,
    expected: Results,
) -> Results:
    """Compute by Flink: compile, write the log to a topic, run to its end, read the results.

    How much is expected says only how long to wait for the results.
    """
    name = uuid.uuid4().hex
    options = FlinkOptions(
        servers,
        topic=f"log-{name}",
        features_topic=f"features-{name}",
        matches_topic=f"matches-{name}",
        group_id=name,
        watermark_delay_ms=delay,
        allowed_lateness_ms=0,
        parallelism=1,
        state_backend="hashmap",
        end_offsets=write_log(servers, f"log-{name}", [entries]),
    )
    for topic in (options.features_topic, options.matches_topic):
        make_topic(servers, topic)
    # A guard against hanging; how long it takes is nobody's promise.
    flink.run(compile_flink(definitions, options).text, timeout=800)
    results = Results()
    features = {feature.name: feature for feature in definitions.features}
    for row in read_rows(servers, options.features_topic, len(expected.fired)):
        feature, key, group = row["feature"], row["entity_key"], row.get("group_key")
        value = row["feature_value"]
        if features[feature].aggregate in ("last_n", "top_k"):
            value = [(text, weight) for text, weight in value]
        if features[feature].aggregate not in UNWINDOWED:
            results.fired[feature, key, group, row["window_start"], row["window_end"]] = value
        elif not isinstance(features[feature].window, Window):
            results.latest[feature, key, group] = value
    for row in read_rows(servers, options.matches_topic, expected.found.total()):
        results.found[
            row["sequence"],
            row["entity_key"],
            row.get("same"),
            row["start"],
            row["end"],
            tuple(row["events"]),
        ] += 1
    return results


def compilable(definitions: Definitions) -> tuple[Definitions, list[str]]:
    """What of `definitions` Flink can compute, and why the rest cannot be compiled."""
    refusals: list[str] = []
    kept: list[Any] = []
    for definition in definitions.all:
        alone = only(definition)
        try:
            compile_flink(alone, FlinkOptions("", "log"))
            kept.append(definition)
        except DefinitionError as error:
            refusals.append(f"{definition.as_data()}: {error}")
    named = {definition.name for definition in kept}
    return (
        Definitions(
            tuple(f for f in definitions.features if f.name in named),
            tuple(s for s in definitions.sequences if s.name in named),
            tuple(j for j in definitions.joins if j.name in named),
        ),
        refusals,
    )
