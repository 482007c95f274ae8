"""Directions and bridges that a training learns: kept while young, and never from a few people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from tests.platform.domains.world import NOW, entries

from tactful.catalogue.ids import ItemIds
from tactful.config.domains import DomainSettings
from tactful.metadata.crossed_profiles import CrossedProfile
from tactful.recall.crossings import Crossings, OwnProfiles
from tactful.recall.index import RecallIndex, empty_index
from tactful.training.crossings import FEWEST_TAKERS, CrossingData, learn_crossings
from tactful.training.history import History
from tactful_streaming.contract.log_entries import Entry, Event, Item, encode_entry

PEOPLE = [f"p-{number}" for number in range(60)]
SETTINGS = DomainSettings(name="magazine", dimensions=4, minimum_people=40)


class Log:
    """Entries in memory, as far as a history reads a log."""

    begin = 0

    def __init__(self, held: list[Entry]) -> None:
        self.records = [(place, encode_entry(entry)) for place, entry in enumerate(held)]
        self.end = len(held)

    def read(self, start: int, most: int, **_: Any) -> list[tuple[int, bytes]]:
        return self.records[start : start + most]


def history(people: list[str]) -> History:
    log: Any = Log(entries("magazine", people, 5))
    return History.read(log)


def profiles(people: list[str], version: str = "v1") -> list[CrossedProfile]:
    rng = np.random.default_rng(1)
    return [
        CrossedProfile(person, "shop", version, NOW, tuple(rng.uniform(-0.5, 0.5, 3).tolist()))
        for person in people
    ]


def test_nothing_is_learned_without_a_name_or_from_a_few_people() -> None:
    known = history(PEOPLE)
    nameless = CrossingData(replace(SETTINGS, name=""), profiles(PEOPLE))
    assert learn_crossings(known, nameless) == Crossings()
    few = learn_crossings(history(PEOPLE[:39]), CrossingData(SETTINGS, profiles(PEOPLE)))
    assert few == Crossings(), "only people with a history here count"
    halves = profiles(PEOPLE[:30]) + profiles(PEOPLE[30:], "v2")
    assert learn_crossings(known, CrossingData(SETTINGS, halves)).bridges == ()
    learned = learn_crossings(known, CrossingData(SETTINGS, profiles(PEOPLE)))
    assert [(it.embedding, it.people) for it in learned.bridges] == [("v1", 60)]


def test_items_of_few_takers_are_not_predicted() -> None:
    rare = {f"p-{number}" for number in range(3, 19, 4)}  # the only takers of the last item
    held = [
        entry
        for entry in entries("magazine", PEOPLE, 5)
        if not isinstance(entry, Event) or entry.item_id != "magazine-39" or entry.user_id in rare
    ]
    log: Any = Log(held)
    known = History.read(log)
    (bridge,) = learn_crossings(known, CrossingData(SETTINGS, profiles(PEOPLE))).bridges
    person = known.person_of_visit[known.session]
    takers = [len({*person[known.item == row].tolist()}) for row in range(len(known.item_ids))]
    wanted = [row for row, count in enumerate(takers) if count >= FEWEST_TAKERS]
    assert bridge.rows.tolist() == wanted and len(wanted) < len(takers)
    shares = [takers[row] / len(PEOPLE) for row in wanted]
    assert np.allclose(bridge.bridge.base, shares)


def test_directions_stay_those_of_the_champion_while_they_are_young() -> None:
    """Items that came since have no direction; the others keep theirs in their new rows."""
    known = history(PEOPLE)
    first = learn_crossings(known, CrossingData(SETTINGS))
    assert first.own is not None and first.embedding is not None
    ids = [*reversed(known.item_ids[:-1])]
    rows = np.array([known.item_ids.index(it) for it in ids])
    embedding = replace(
        first.embedding,
        rarity=first.embedding.rarity[rows],
        directions=first.embedding.directions[rows],
    )
    champion: RecallIndex = replace(
        empty_index(),
        item_ids=ItemIds.of(ids),
        crossings=Crossings(first.own, embedding),
    )
    again = learn_crossings(known, CrossingData(SETTINGS, previous=champion))
    assert again.own == first.own and again.embedding is not None
    assert np.allclose(again.embedding.directions[:-1], first.embedding.directions[:-1])
    assert not again.embedding.directions[-1].any() and not again.embedding.rarity[-1]
    for changed in (replace(SETTINGS, dimensions=5), replace(SETTINGS, embedding_days=1e-9)):
        old = OwnProfiles("old", first.own.made_at - 1)
        aged = replace(champion, crossings=Crossings(old, embedding))
        anew = learn_crossings(known, CrossingData(changed, previous=aged))
        assert anew.own is not None and anew.own.version != "old"


def champion_of(known: History, crossings: Crossings) -> RecallIndex:
    return replace(empty_index(), item_ids=ItemIds.of([*known.item_ids]), crossings=crossings)


def read(held: list[Entry]) -> History:
    log: Any = Log(held)
    return History.read(log)


def test_directions_are_computed_anew_after_an_erasure() -> None:
    """They are those of the rest, turned so that profiles of before can still be compared."""
    secret = [Item(item_id=f"secret-{n}", timestamp=NOW, properties={}) for n in range(3)]
    taken = [
        Event(
            event_id=f"e-{n}",
            type="purchase",
            timestamp=NOW - 10**8,
            user_id="erased",
            session_id="s",
            item_id=f"secret-{n}",
        )
        for n in range(3)
    ]
    base = entries("magazine", PEOPLE, 5)
    taken += [
        Event(
            event_id=f"c-{n}",
            type="purchase",
            timestamp=NOW - 10**8,
            user_id="erased",
            session_id="s",
            item_id=f"magazine-{n}",
        )
        for n in range(0, 20, 3)
    ]
    whole, rest = read([*base, *secret, *taken]), read([*base, *secret])
    first = learn_crossings(whole, CrossingData(SETTINGS, trained_at=5))
    champion = champion_of(whole, first)
    kept = learn_crossings(rest, CrossingData(SETTINGS, previous=champion, erased_at=5))
    assert kept.own == first.own
    anew = learn_crossings(
        rest, CrossingData(SETTINGS, previous=champion, trained_at=7, erased_at=6)
    )
    fresh = learn_crossings(rest, CrossingData(SETTINGS))
    assert first.own is not None and anew.own == OwnProfiles(
        first.own.version, first.own.made_at, 7
    )
    assert fresh.own is not None and fresh.own.version != first.own.version
    assert str(rest.until) not in fresh.own.version, "a version is no time of an event"
    assert anew.embedding and fresh.embedding and first.embedding
    turned, own = anew.embedding.directions, fresh.embedding.directions
    np.testing.assert_allclose(turned @ turned.T, own @ own.T, atol=1e-9)
    np.testing.assert_array_equal(anew.embedding.rarity, fresh.embedding.rarity)
    old = first.embedding.directions
    assert not np.allclose(turned, old, atol=1e-4)
    assert (turned * old).sum() > 0.95 * np.linalg.norm(turned) * np.linalg.norm(old)


def test_directions_that_changed_much_have_another_version() -> None:
    known = history(PEOPLE)
    fresh = learn_crossings(known, CrossingData(SETTINGS))
    assert fresh.own is not None and fresh.embedding is not None
    others = np.random.default_rng(2).normal(size=fresh.embedding.directions.shape)
    for directions in (others, np.zeros_like(others)):
        old = Crossings(OwnProfiles("old", NOW), replace(fresh.embedding, directions=directions))
        data = CrossingData(SETTINGS, previous=champion_of(known, old), erased_at=1)
        again = learn_crossings(known, data)
        assert again.own == fresh.own and again.embedding is not None
        assert np.array_equal(again.embedding.directions, fresh.embedding.directions)


def test_items_of_few_takers_have_no_direction() -> None:
    rare = {f"p-{number}" for number in range(3, 19, 4)}  # the only takers of the last item
    held = [
        entry
        for entry in entries("magazine", PEOPLE, 5)
        if not isinstance(entry, Event) or entry.item_id != "magazine-39" or entry.user_id in rare
    ]
    embedding = learn_crossings(known := read(held), CrossingData(SETTINGS)).embedding
    assert embedding is not None
    row = known.item_ids.index("magazine-39")
    assert not embedding.directions[row].any() and not embedding.rarity[row]
    assert embedding.directions.any(axis=1).sum() == len(known.item_ids) - 1


def test_equal_histories_have_no_directions() -> None:
    """Where all took everything, no item tells them apart, and the training goes on."""
    events: list[Entry] = [
        Event(
            event_id=f"{person}:{number}",
            type="purchase",
            timestamp=NOW + number,
            user_id=person,
            session_id=person,
            item_id=f"magazine-{number}",
        )
        for person in PEOPLE
        for number in range(40)
    ]
    learned = learn_crossings(read(events), CrossingData(SETTINGS))
    assert learned == Crossings()


def by_devices(shared: Sequence[str] = ()) -> History:
    """Give each person a device, and some of the devices a second user."""
    held: list[Entry] = []
    for entry in entries("magazine", PEOPLE, 5):
        if isinstance(entry, Event):
            entry = msgspec.structs.replace(entry, device_id=f"of-{entry.user_id}")
        held.append(entry)
    held += [
        Event(
            event_id=f"{person}:x",
            type="purchase",
            timestamp=NOW,
            user_id="p-0",
            device_id=f"of-{person}",
            item_id="magazine-0",
        )
        for person in shared
    ]
    return read(held)


def test_a_device_teaches_by_its_only_user_who_agrees_too() -> None:
    """A profile of a device is joined to the history of its user by consent of both."""
    stored = [
        profile._replace(person=f"device:of-{profile.person}") for profile in profiles(PEOPLE)
    ]
    refusing = {f"p-{number}" for number in range(10)}

    def crosses(pair: str, keys: Sequence[str]) -> bool:
        assert pair == "shop>magazine" and keys[1] == f"device:of-{keys[0]}"
        return keys[0] not in refusing

    known = by_devices()
    data = CrossingData(SETTINGS, stored, crosses=crosses)
    (bridge,) = learn_crossings(known, data).bridges
    assert bridge.people == 50
    assert learn_crossings(known, CrossingData(SETTINGS, stored)).bridges == ()
    (bridge,) = learn_crossings(by_devices([f"p-{n}" for n in range(10, 15)]), data).bridges
    assert bridge.people == 45, "a device of two users belongs to neither history"
