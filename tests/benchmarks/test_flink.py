"""The benchmark of Flink: rounds of kills that are left out, made people, and differences."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from benchmarks.figures import commit
from benchmarks.flink import kills, published
from benchmarks.flink.lists import different
from benchmarks.flink.people import check_disk
from benchmarks.flink.place import PARTITIONS
from benchmarks.flink.shop import Shop
from tactful.config.settings import PACKAGED_FEATURES
from tactful_streaming.contract.log_entries import Event, decode_entry
from tactful_streaming.definitions.reader import load_definitions


def a_round(seed: int, wanted: int, folder: Path) -> kills.Round:
    assert folder.is_dir()
    return kills.Round(
        commit=commit(),
        seed=seed,
        kills=wanted,
        killed={"worker": wanted},
        entities=100,
        wrong=seed % 2,
        planted=3,
        examples=["views: 1"] if seed % 2 else [],
    )


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []

    def interrupted(seed: int, wanted: int, folder: Path) -> kills.Round:
        rounds.append(seed)
        if len(rounds) == 3:
            raise KeyboardInterrupt
        return a_round(seed, wanted, folder)

    monkeypatch.setattr(kills, "_round", interrupted)
    file = tmp_path / "reports" / "rounds.jsonl"
    (tmp_path / "first").mkdir()
    with pytest.raises(KeyboardInterrupt):
        kills.kills(False, tmp_path / "first", file)
    (tmp_path / "second").mkdir()
    figures = {it.name: it for it in kills.kills(False, tmp_path / "second", file)}
    assert rounds == [41, 42, 43, 43, 44, 45]
    assert figures["flink_kills"].value == 50
    assert figures["flink_wrong_values"].value == 3
    assert "found in 5 of 5 rounds; views: 1" in figures["flink_wrong_values"].note
    assert {name for name, _ in kills.FIGURES} == figures.keys()


def test_rounds_of_other_commits_and_sizes_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "rounds.jsonl"
    assert kills.finished(file, 10) == []
    mine = a_round(41, 10, tmp_path)
    other = msgspec.structs.replace(mine, commit="another")
    lines = (mine, other, a_round(41, 4, tmp_path))
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in lines))
    assert kills.finished(file, 10) == [mine]


def test_each_kind_is_killed_as_often_as_the_others() -> None:
    assert Counter(kills.deck(random.Random(1), 50)) == dict.fromkeys(kills.KINDS, 10)
    assert len(set(kills.deck(random.Random(1), 4))) == 4


def test_another_item_order_or_score_is_a_difference() -> None:
    first = [{"item_id": "tea", "score": 2.0}, {"item_id": "cup", "score": 1.0}]
    turned = first[::-1]
    scored = [{"item_id": "tea", "score": 2.0001}, first[1]]
    rounded = [{"item_id": "tea", "score": 2.0 * (1 + 1e-15)}, first[1]]
    assert different([first] * 4, [first, turned, scored, rounded]) == 2
    assert different([first], [first[:1]]) == 1


def test_each_made_person_has_an_event_and_most_have_few() -> None:
    shop = Shop(3_000)
    made = list(shop.events())
    by_person = Counter(person for person, _ in made)
    assert by_person.keys() == set(range(3_000))
    assert len(made) == shop.counts.sum()
    assert Counter(by_person.values())[1] > 1_500
    assert max(by_person.values()) > 20
    assert made == list(Shop(3_000).events())
    assert made != list(Shop(3_000, seed=12).events())


def test_made_events_are_entries_of_the_log_in_order_and_with_ids_of_their_own() -> None:
    made = list(Shop(500).events())
    entries = [decode_entry(event) for _, event in made]
    assert all(isinstance(entry, Event) for entry in entries)
    events = [entry for entry in entries if isinstance(entry, Event)]
    assert [event.user_id for event in events] == [f"u{person}" for person, _ in made]
    assert len({event.event_id for event in events}) == len(events)
    times = [event.timestamp for event in events]
    assert all(later > earlier - 2_000 for earlier, later in pairwise(times))


def test_the_sample_has_the_busiest_people() -> None:
    shop = Shop(3_000)
    sample = shop.sample(100)
    assert 100 <= len(sample) <= 110
    assert int(shop.counts.argmax()) in sample
    assert Shop(3).sample(100) == {0, 1, 2}


def test_people_for_whom_the_disk_is_too_small_are_refused(tmp_path: Path) -> None:
    check_disk(1_000, 10**10, tmp_path)
    with pytest.raises(RuntimeError, match=r"has 10\.0 GB free, and 10,000,000 people need"):
        check_disk(10_000_000, 10**10, tmp_path)


def test_a_changed_or_missing_value_of_a_person_is_found() -> None:
    definitions = load_definitions(PACKAGED_FEATURES)
    events: dict[int, list[bytes]] = {number: [] for number in range(PARTITIONS)}
    for person, event in Shop(40).events():
        events[person % PARTITIONS].append(event)
    engines = published.engines(definitions, events)
    keys = [published.known_keys(events[number]) for number in range(PARTITIONS)]
    truth = list(zip(engines, keys, strict=True))
    values = {
        (kind, key): packed
        for engine in published.engines(definitions, events)
        for kind in ("user", "session")
        for key, packed in engine._state.tables[kind].pack_changes(0).items()
        if packed is not None
    }
    assert set().union(*keys) >= values.keys() >= {("user", f"u{person}") for person in range(40)}
    newest = max(engine._state.admission.newest for engine in engines)
    compared, wrong = published.different(definitions, truth, values, newest)
    assert (compared > 1_000, wrong) == (True, 0)
    first, second = ("user", "u0"), ("user", "u1")
    exchanged = values | {first: values[second]}
    assert published.different(definitions, truth, exchanged, newest)[1] > 0
    del values[first]
    assert published.different(definitions, truth, values, newest)[1] > 0
