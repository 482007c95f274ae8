"""Who is asking: rows in the right order, each once, and nothing for nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.platform.shop import DAY, definitions

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import build_context, read_columns, read_nonzero, read_placed
from tactful_streaming.contract.log_entries import Event, Item, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.errors import EngineError
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.reads import View

NOW = 1_700_000_000_000
CATALOGUE = Catalogue(
    ("a", "b", "c"), {it: Item(item_id=it, timestamp=0) for it in ("d", "b", "c", "a")}
)


@pytest.fixture
def engine() -> Engine:
    return Engine(definitions(), MemoryState())


def see(engine: Engine, *what: tuple[str, str, dict[str, Any]]) -> None:
    """Apply events of (item, type, who), a second apart and the last one a second ago."""
    begin, end = engine.offset, engine.offset + len(what)
    records = []
    for offset, (item, kind, who) in enumerate(what, begin):
        at = NOW - 1000 * (end - offset)
        event = Event(event_id=f"{offset}", type=kind, timestamp=at, item_id=item, **who)
        records.append((offset, encode_entry(event)))
    engine.apply(records)


def ask(source: Any, subject: str | None, session: str | None = None, at: int = NOW) -> Any:
    return build_context(source, CATALOGUE, subject=subject, session_id=session, at=at)


def names(rows: Sequence[int]) -> str:
    return "".join(CATALOGUE.item_ids[row] for row in rows)


def test_a_visit_id_gives_nothing_of_another_person(engine: Engine) -> None:
    """Bob asks with the visit of Alice and gets what he saw in it himself."""
    alice, bob = {"user_id": "alice", "session_id": "s"}, {"user_id": "bob", "session_id": "s"}
    see(engine, ("a", "view", alice), ("b", "x.play", alice), ("c", "view", bob))
    assert names(ask(engine, "alice", "s").session) == "ba"
    assert names(ask(engine, "bob", "s").session) == "c"
    assert ask(engine, "carol", "s").session == []


def test_without_a_visit_id_a_pause_of_half_an_hour_begins_a_visit(engine: Engine) -> None:
    """Events may have ids of visits or not; before the first one nothing belongs to the visit."""
    pause = 30 * 60_000
    for number, (item, ago) in enumerate((("d", 3), ("a", 2), ("b", 0.9), ("b", 0.5), ("c", 0))):
        at = NOW - int(ago * pause) - 1
        session = {"session_id": f"s{number}"} if number % 2 else {}
        who: dict[str, Any] = {"event_id": str(number), "user_id": "u", **session}
        event = Event(type="view", timestamp=at, item_id=item, **who)
        engine.apply([(number, encode_entry(event))])
    ongoing = ask(engine, "u")
    assert (names(ongoing.session), names(ongoing.history)) == ("cbb", "ad")
    later = ask(engine, "u", at=NOW + pause)
    assert (names(later.session), names(later.history)) == ("", "cbad")
    assert names(ask(engine, "u", "s3").session) == "b"


@pytest.mark.slow
def test_the_visit_is_newest_first_and_the_history_the_rest(engine: Engine) -> None:
    before, now = {"user_id": "u", "session_id": "s1"}, {"user_id": "u", "session_id": "s2"}
    see(
        engine,
        ("a", "purchase", before),
        ("d", "view", before),
        ("a", "view", before),
        ("c", "click", before),
        ("b", "view", now),
        ("unknown", "view", now),
        ("c", "add_to_cart", now),
        ("b", "add_to_cart", now),
    )
    found = ask(engine, "u", "s2")
    assert names(found.session) == "bcb"
    assert names(found.history) == "ad"
    assert found.known
    assert found.grouped("taken_28d") == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert found.number("visits_364d") == 1.0
    assert found.at == NOW


def test_subjects_have_visits_and_histories_of_their_own(engine: Engine) -> None:
    see(
        engine,
        ("a", "view", {"user_id": "u", "session_id": "s1"}),
        ("b", "view", {"device_id": "phone", "session_id": "s2"}),
        ("c", "view", {"user_id": "phone"}),
    )
    for subject, session, visit, history in (
        ("u", None, "a", ""),
        ("u", "new", "", "a"),
        (None, "s2", "b", ""),
        ("device:phone", None, "b", ""),
        ("stranger", "new", "", ""),
    ):
        found = ask(engine, subject, session)
        assert (names(found.session), names(found.history)) == (visit, history)
        assert found.known is bool(visit or history)
    nobody = ask(engine, None, "s2")
    assert nobody.grouped("taken_28d") == {}
    assert nobody.number("visits_364d") == 0.0


def test_features_are_read_lazily(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    see(engine, ("a", "add_to_cart", {"user_id": "u"}))
    whole = engine.read("user", "u", NOW)
    asked, read = [], View.read

    def noted(view: View, row: int, at: int) -> Any:
        asked.append(view.feature.name)
        return read(view, row, at)

    monkeypatch.setattr(View, "read", noted)
    found = ask(engine, "u")
    assert (names(found.session), asked) == ("a", ["recent_items"])
    for _ in range(2):
        assert found.grouped("taken_364d") == whole["taken_364d"]
    assert asked == ["recent_items", "taken_364d"]
    assert found.user == whole


def test_a_source_that_reads_all_at_once_is_enough(engine: Engine) -> None:
    see(engine, ("a", "add_to_cart", {"user_id": "u"}))

    class Whole:
        def read(self, entity: str, key: str, at: int) -> Any:
            return engine.read(entity, key, at)

    whole: Any = Whole()
    found = ask(whole, "u")
    assert names(found.session) == "a"
    assert found.user == ask(engine, "u").user


def test_silence_ages_what_is_seen(engine: Engine) -> None:
    see(engine, ("a", "add_to_cart", {"user_id": "u", "session_id": "s"}))
    later = ask(engine, "u", "s", NOW + 40 * DAY)
    assert later.session == [], "a visit does not last for weeks"
    assert names(later.history) == "a"
    assert later.grouped("taken_28d").get("a", 0.0) == 0.0
    assert later.grouped("taken_364d")["a"] > 0.0


def test_what_the_definitions_lack_is_nothing() -> None:
    line = "- {name: %s, entity: item, event: view, aggregate: count, window: {size: 1d}%s}\n"
    text = line % ("sold_7d", "") + line % ("by_category", ", group_by: category")
    engine = Engine(load_definitions(text), MemoryState())
    see(engine, ("b", "view", {"user_id": "u"}))
    asked = ("sold_28d", "sold_7d")
    columns = read_columns(engine, "item", ["a", "b"], asked, NOW)
    assert columns.tolist() == [[0, 0], [0, 1]]
    places = np.array(CATALOGUE.rows.of_many("ba"))
    placed = read_placed(engine, "item", CATALOGUE.item_places, places, asked, NOW)
    assert placed.tolist() == [[0, 1], [0, 0]]
    assert read_columns(engine, "category", ["x"], asked, NOW).tolist() == [[0, 0]]
    told = {name: read_nonzero(engine, "item", name, NOW, 0) for name in asked}
    assert [part and part.keys for part in told.values()] == [[], ["b"]]
    assert read_nonzero(engine, "category", "sold_7d", NOW, 0) is not None
    with pytest.raises(EngineError):
        read_columns(engine, "item", ["a"], ("by_category",), NOW)
    with pytest.raises(EngineError):
        read_nonzero(engine, "item", "by_category", NOW, 0)
