"""Views that keep up with the items: rows stay, new items lie near what they are like."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.platform.shop import definitions

import tactful.recall.live_view
import tactful.vectors.updatable_index
from tactful.catalogue.catalogue import Catalogue
from tactful.errors import StorageError
from tactful.recall.candidates import CatalogueView
from tactful.recall.index import RecallIndex, build_index
from tactful.recall.live_view import LiveCatalogue
from tactful.recall.tables import Interactions
from tactful.vectors.content import ContentVectors
from tactful_streaming.contract.log_entries import Event, Item, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

KINDS = ("green tea", "coffee mug")


def item(item_id: str, title: str, *, timestamp: int = 0, available: bool = True) -> Item:
    return Item(item_id=item_id, timestamp=timestamp, title=title, available=available)


KNOWN = [item(f"i{row}", KINDS[row // 5]) for row in range(10)]


def index() -> RecallIndex:
    """Teas are bought together, and so are mugs."""
    generator = np.random.default_rng(0)
    visits = [generator.choice(5, 3, replace=False) + 5 * (n % 2) for n in range(300)]
    return build_index(
        [each.item_id for each in KNOWN],
        Interactions(np.repeat(np.arange(300), 3), np.concatenate(visits), np.arange(900)),
        items=KNOWN,
    )


INDEX = index()


def send(engine: Engine, *items: Item) -> None:
    engine.apply([(engine.offset + n, encode_entry(each)) for n, each in enumerate(items)])


def near(view: CatalogueView, item_id: str, count: int = 6) -> set[str]:
    rows = np.array([view.catalogue.item_ids.index(item_id)])
    found, _ = view.search.nearest(view.search.vectors_of(rows)[0], count, view.catalogue.available)
    return {view.catalogue.item_ids[row] for row in found.tolist()}


@pytest.fixture
def engine() -> Engine:
    made = Engine(definitions(), MemoryState())
    send(made, *KNOWN)
    return made


def test_a_new_item_is_found_and_moves_no_row(tmp_path: Path, engine: Engine) -> None:
    live = LiveCatalogue(INDEX, tmp_path / "live")
    before = live.refresh(engine)
    send(engine, item("z-new", "Tea, green"), item("a-new", "mug for coffee"))
    view = live.refresh(engine)
    assert list(view.catalogue.item_ids)[:10] == list(before.catalogue.item_ids)
    assert near(view, "i0") == {*(f"i{row}" for row in range(5)), "z-new"}
    assert near(view, "a-new") == {*(f"i{row}" for row in range(5, 10)), "a-new"}
    assert set(view.popular.rows.tolist()) == set(range(12))
    assert before.catalogue.rows.get("z-new") is None, "a view never changes"
    live.close()


def test_changes_are_applied_and_sold_out_items_not_found(tmp_path: Path, engine: Engine) -> None:
    live = LiveCatalogue(INDEX, tmp_path / "live")
    live.refresh(engine)
    send(engine, item("new", "green tea"))
    live.refresh(engine)
    send(engine, item("new", "coffee mug", timestamp=1))
    assert "new" in near(live.refresh(engine), "i7")
    send(engine, item("new", "coffee mug", timestamp=2, available=False))
    assert "new" not in near(live.refresh(engine), "i7")
    live.close()


def test_processes_agree(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tactful.vectors.updatable_index, "MERGE_ABOVE", 2)
    writer = LiveCatalogue(INDEX, tmp_path / "live")
    writer.refresh(engine)
    reader = LiveCatalogue(INDEX, tmp_path / "live")
    assert (writer.writes, reader.writes) == (True, False)
    for number in range(4):
        send(engine, item(f"new{number}", KINDS[number % 2]))
        writer.refresh(engine)
    assert writer._merging is not None
    writer._merging.join(120)
    writer.refresh(engine)
    assert writer.describe()["build"] == 1
    send(engine, item("last", "green tea"))
    views = [writer.refresh(engine), reader.refresh(engine)]
    writer.close()
    again = LiveCatalogue(INDEX, tmp_path / "live")
    assert again.writes
    views.append(again.refresh(engine))
    for view in views:
        ids = [*(f"i{row}" for row in range(10)), *(f"new{n}" for n in range(4)), "last"]
        assert list(view.catalogue.item_ids) == ids
        assert near(view, "i0", 8) == {*(f"i{row}" for row in range(5)), "new0", "new2", "last"}
    again.close()


class Encoded:
    """A store of vectors that breaks and is mended."""

    def __init__(self) -> None:
        self.name = "text:mirror:1"
        self.parts = [1]
        self.is_broken = self.is_closed = False
        self.number = 1

    def of(self, items: Sequence[Item | None]) -> NDArray[np.float32]:
        if self.is_broken:
            raise StorageError("a damaged file")
        return np.ones((len(items), 1), np.float32)

    def version(self) -> int:
        return self.number

    def close(self) -> None:
        self.is_closed = True


class Mirrored:
    """Content vectors that are turned round where they are encoded."""

    encoder = "text:mirror:1"

    def vectors(self, items: Sequence[Item], encoded: Encoded | None = None) -> NDArray[np.float32]:
        rows = INDEX.content.vectors(items)
        return rows if encoded is None else -rows * encoded.of(items)


def test_items_keep_their_vectors_while_the_encoded_ones_cannot_be_read(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tactful.recall.live_view, "_FEW", 1)  # items are placed one by one
    store, now = Encoded(), [0.0]
    mirrored = replace(INDEX, content=cast(ContentVectors, Mirrored()))
    live = LiveCatalogue(
        mirrored, tmp_path / "live", monotonic=lambda: now[0], encoded=lambda _: store
    )
    live.refresh(engine)

    def sides(*item_ids: str) -> list[bool]:
        """Return whether items have their encoded vectors, ten seconds later."""
        now[0] += 10.0
        view = live.refresh(engine)
        rows = np.array([view.catalogue.item_ids.index(it) for it in item_ids])
        words = INDEX.content.vectors([engine.items[it] for it in item_ids])
        return [bool(row) for row in (view.search.vectors_of(rows) * words).sum(axis=1) < 0.0]

    send(engine, item("first", "green tea"))
    assert sides("first") == [True]
    store.is_broken, store.number = True, 2
    send(engine, item("second", "green tea"))
    assert sides("first", "second") == [True, False]
    store.is_broken = False
    assert sides("first", "second") == [True, True]
    live.close()
    assert store.is_closed


def test_another_index(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    other = build_index(
        ["i7", *(f"i{row}" for row in range(6)), "never"],
        Interactions(np.repeat(np.arange(200), 2), np.tile([1, 2], 200), np.arange(400)),
        items=[KNOWN[7], *KNOWN[:6], None],
    )
    held = LiveCatalogue(INDEX, tmp_path / "held")
    send(engine, item("z-new", "green tea"), item("a-new", "coffee mug"))
    held.refresh(engine)
    send(engine, item("i8", "coffee mug", timestamp=1, available=False), item("last", "green tea"))
    given: list[int] = []
    told = engine.items_since

    def counted(version: int) -> list[Item]:
        changed = told(version)
        given.append(len(changed))
        return changed

    monkeypatch.setattr(engine, "items_since", counted)
    following = LiveCatalogue(other, tmp_path / "following", after=held)
    view = following.refresh(engine)
    assert given == [2], "what did not change is not read again"
    anew = LiveCatalogue(other, tmp_path / "anew")
    wanted = anew.refresh(engine)
    assert list(view.catalogue.item_ids)[:8] == list(other.item_ids)
    assert sorted(view.catalogue.item_ids) == sorted(wanted.catalogue.item_ids)
    for item_id in wanted.catalogue.item_ids:
        row, of = (each.catalogue.item_ids.index(item_id) for each in (view, wanted))
        assert view.catalogue.available[row] == wanted.catalogue.available[of], item_id
        pairs = (view, row), (wanted, of)
        vectors = [each.search.vectors_of(np.array([at]))[0] for each, at in pairs]
        assert np.array_equal(*vectors), item_id
    assert near(view, "i1") == near(wanted, "i1")
    assert len(view.popular.rows) == len(wanted.popular.rows) == 12
    # The rows are those of the directory, so that a restart finds them again.
    following.close()
    again = LiveCatalogue(other, tmp_path / "following")
    assert list(again.refresh(engine).catalogue.item_ids) == list(view.catalogue.item_ids)
    for live in (held, anew, again):
        live.close()


def test_views_that_were_followed_in_vain_read_all_again(tmp_path: Path, engine: Engine) -> None:
    held = LiveCatalogue(INDEX, tmp_path / "held")
    held.refresh(engine)
    send(engine, item("new", "green tea"))
    LiveCatalogue(INDEX, tmp_path / "vain", after=held).close()
    assert held.refresh(engine).catalogue.rows.get("new") is not None
    held.close()


def test_late_merge(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tactful.vectors.updatable_index, "MERGE_ABOVE", 2)
    now = 0.0
    held = LiveCatalogue(INDEX, tmp_path / "held", monotonic=lambda: now)
    held.refresh(engine)
    send(engine, *(item(f"new{number}", KINDS[number % 2]) for number in range(4)))
    live = LiveCatalogue(INDEX, tmp_path / "live", monotonic=lambda: now, after=held)
    for seconds in (0.0, 59.0):
        now = seconds
        live.refresh(engine)
        assert (live.describe()["changes"], live._merging) == (4, None)
    now = 61.0
    live.refresh(engine)
    assert live._merging is not None
    following = LiveCatalogue(INDEX, tmp_path / "following", monotonic=lambda: now, after=live)
    assert following._merging is live._merging, "one at a time"
    live._merging.join(120)
    assert live.describe()["build"] == 1
    for each in (held, live, following):
        each.close()


def test_popularity_is_counted_anew_where_rows_moved(tmp_path: Path, engine: Engine) -> None:
    """A reader may know of an item before its index does, which then gives it another row."""
    writer = LiveCatalogue(INDEX, tmp_path / "live", monotonic=lambda: 0.0)
    reader = LiveCatalogue(INDEX, tmp_path / "live", monotonic=lambda: 0.0)
    send(engine, item("a-new", "green tea"), item("b-new", "coffee mug"))
    taken = Event(event_id="e", type="purchase", timestamp=1, user_id="u", item_id="a-new")
    engine.apply([(engine.offset, encode_entry(taken))])
    before = reader.refresh(engine)
    assert before.catalogue.item_ids[before.popular.rows[0]] == "a-new"
    send(engine, item("0-new", "green tea"))
    writer.refresh(engine)
    view = reader.refresh(engine)
    assert list(view.catalogue.item_ids)[10:] == ["0-new", "a-new", "b-new"]
    assert view.catalogue.item_ids[view.popular.rows[0]] == "a-new"
    assert sorted(view.popular.rows.tolist()) == list(range(13))
    for live in (writer, reader):
        live.close()


def test_items_that_come_just_after_a_start_have_an_order(tmp_path: Path) -> None:
    """Popularity is counted every ten seconds, and before that where most rows are new."""
    live = LiveCatalogue(INDEX, tmp_path / "live", monotonic=lambda: 0.0)
    empty = Engine(definitions(), MemoryState())
    assert live.refresh(empty).popular.known == 0
    send(empty, *KNOWN)
    assert live.refresh(empty).popular.known == len(KNOWN)
    send(empty, item("new", "green tea"))
    assert live.refresh(empty).popular.unknown.tolist() == [len(KNOWN)]
    live.close()


def test_damaged_files(tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    first = LiveCatalogue(INDEX, tmp_path / "live")
    first.refresh(engine)
    send(engine, item("new", "green tea"))
    wanted = first.refresh(engine)
    first.close()
    journal = tmp_path / "live" / "journal-000000.log"
    intact = journal.read_bytes()
    journal.write_bytes(intact[:-1] + bytes([intact[-1] ^ 0xFF]))
    with caplog.at_level(logging.WARNING):
        again = LiveCatalogue(INDEX, tmp_path / "live")
    assert "made anew" in caplog.text
    assert near(again.refresh(engine), "i0") == near(wanted, "i0")
    again.close()


def test_without_an_index_the_catalogue_grows_all_the_same(engine: Engine) -> None:
    from tactful.recall.index import empty_index

    live = LiveCatalogue(empty_index(), None)
    live.refresh(engine)
    send(engine, item("a", "x"), item("i3", "sold out", timestamp=1, available=False))
    view = live.refresh(engine)
    fresh = Catalogue((), engine.items)
    assert sorted(view.catalogue.item_ids) == sorted(fresh.item_ids)
    assert not view.catalogue.available[view.catalogue.item_ids.index("i3")]
    assert live.refresh(engine).catalogue is view.catalogue, "nothing changed, nothing is copied"


@pytest.mark.parametrize("few", [True, False])
def test_what_changed_is_written_between_two_requests(
    tmp_path: Path, engine: Engine, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`few`: too few items to copy all columns for, so that a request has to be over first."""
    changing = threading.Lock()
    live = LiveCatalogue(INDEX, tmp_path / "live", changing=changing)
    live.refresh(engine)
    send(engine, item("y-new", "Coffee"))
    before = live.refresh(engine)  # whose columns have room for more, since they grew
    if not few:
        monkeypatch.setattr(tactful.recall.live_view, "_FEW", 0)
    send(engine, item("i0", KINDS[0], available=False), item("z-new", "Tea, green"))
    refreshing = threading.Thread(target=live.refresh, args=(engine,))
    with changing:
        refreshing.start()
        refreshing.join(0.3)
        assert refreshing.is_alive() is few
        assert before.catalogue.available.all(), "a request has one view from its beginning on"
    refreshing.join()
    row_of = live.view.catalogue.item_ids.index
    assert live.view.catalogue.available[[row_of("i0"), row_of("z-new")]].tolist() == [False, True]
    assert len(before.catalogue.available) == 11
    assert before.catalogue.available[row_of("i0")] == (not few)
    live.close()
