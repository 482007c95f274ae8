"""Items near in meaning, beside plain inner products; fusion with the words of a search."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.platform.catalogue.test_item_search import Source

from tactful.catalogue.changes import EngineItems
from tactful.errors import StorageError
from tactful.search.item_finder import ItemFinder
from tactful.search.meaning import MOST_NEAR, Meaning, Near
from tactful.search.vector_changes import VectorChanges
from tactful.vectors.ivf_index import Changes
from tactful_streaming.contract.log_entries import Item

DIMENSIONS = 16


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    found: NDArray[np.float32] = (rows / lengths).astype(np.float32)
    return found


class Vectors:
    """A feed of vectors."""

    def __init__(self) -> None:
        self.waiting: Changes = {}

    def changes(self) -> Changes:
        waiting, self.waiting = self.waiting, {}
        return waiting


@pytest.mark.parametrize("count", [0, 50, 6_000])
def test_the_nearest_are_those_of_plain_products(count: int) -> None:
    vectors, generator = Vectors(), np.random.default_rng(1)
    drawn = unit(generator.normal(size=(count, DIMENSIONS))) if count else np.zeros((0, 16), "f4")
    query = unit(generator.normal(size=DIMENSIONS))
    meaning = Meaning(vectors.changes, DIMENSIONS)
    vectors.waiting = {f"i{number}": row for number, row in enumerate(drawn)}
    for replaced in range(3):
        if count:
            drawn[replaced] = query
            vectors.waiting = {**vectors.waiting, f"i{replaced}": drawn[replaced]}
        meaning.refresh()
        near = meaning.near(query)
        products = drawn @ query
        best = np.argsort(-products, kind="stable")[:MOST_NEAR]
        mean = products.mean() if count else 0.0
        best = best[products[best] >= mean + 0.15 * (products.max(initial=mean) - mean)]
        assert [*near.cosines] == pytest.approx(products[best].tolist(), abs=1e-5)
        assert {*near.item_ids[: replaced + 1]} >= ({"i0"} if count else set())
    vectors.waiting = {f"i{number}": None for number in range(count)}
    meaning.refresh()
    assert not meaning.near(query).item_ids


def test_vectors_are_read_when_they_are_encoded() -> None:
    """An item that was encoded after it changed is read again; one without words never has one."""
    source, held = Source(), dict[str, NDArray[np.float32]]()

    class Encoded:
        def of(self, items: Sequence[Item | None]) -> NDArray[np.float32]:
            none = np.zeros(2, np.float32)
            return np.array([held.get(it.title or "", none) for it in items if it], np.float32)

        def version(self) -> int:
            return len(held)

    items = EngineItems(cast("Any", source))
    changes = VectorChanges(items, nullcontext(), Encoded(), clock=lambda: 0.0)
    titles = ["mug", "sofa", ""]
    source.put([Item(item_id=f"i{at}", timestamp=0, title=it) for at, it in enumerate(titles)])
    assert changes() == {"i0": None, "i1": None, "i2": None}
    assert changes() == {}
    held["sofa"] = np.array([0.0, 1.0], np.float32)
    found = changes()
    assert found["i1"] is not None and found["i1"].tolist() == [0.0, 1.0]
    assert changes() == {}
    source.put([Item(item_id="i1", timestamp=1, title="mug")])
    assert changes() == {"i1": None}
    assert changes() == {}
    held["mug"] = np.array([1.0, 0.0], np.float32)
    assert {it for it, vector in changes().items() if vector is not None} == {"i0", "i1"}


class Encoder:
    """A store to which vectors are added at each look, in which all items but one have one."""

    def __init__(self) -> None:
        self.looks = list[list[str]]()
        self.versions = 0

    def of(self, items: Sequence[Item | None]) -> NDArray[np.float32]:
        ids = [item.item_id for item in items if item]
        self.looks.append(ids)
        return np.array([[0.0, float(it != "i0")] for it in ids], np.float32)

    def version(self) -> int:
        self.versions += 1
        return self.versions


def test_reading_ends_while_vectors_are_added() -> None:
    """Items without a vector are looked up again after all others, and after a pause."""
    source, now = Source(), [0.0]

    class Slow(Encoder):
        def of(self, items: Sequence[Item | None]) -> NDArray[np.float32]:
            now[0] += 1.0
            return super().of(items)

    encoded = Slow()
    items = EngineItems(cast("Any", source))
    changes = VectorChanges(items, nullcontext(), encoded, clock=lambda: now[0])
    meaning = Meaning(changes, 2)
    source.put([Item(item_id=f"i{at}", timestamp=0, title="x") for at in range(12_000)])
    meaning.refresh()
    assert [len(look) for look in encoded.looks] == [5_000, 5_000, 2_000]
    assert len(meaning.near(np.array([0.0, 1.0], np.float32)).item_ids) == MOST_NEAR
    meaning.refresh()
    assert len(encoded.looks) == 3, "a pass of 3 s is followed by a pause of 27 s"
    now[0] += 28.0
    meaning.refresh()
    meaning.refresh()
    assert encoded.looks[3:] == [["i0"]]
    meaning.close()
    source.put([Item(item_id="new", timestamp=0, title="x")])
    meaning.refresh()
    assert len(encoded.looks) == 4, "a closed one reads nothing more"


def test_parts_before_a_failure_are_found() -> None:
    drawn: Changes = {"a": unit(np.array([1.0, 0.0]))}
    parts: list[Changes] = [drawn]

    def changes() -> Changes:
        if not parts:
            raise StorageError("the store is damaged")
        return parts.pop()

    meaning = Meaning(changes, 2)
    with pytest.raises(StorageError):
        meaning.refresh()
    assert [*meaning.near(unit(np.array([1.0, 0.0]))).item_ids] == ["a"]


def test_a_vector_that_is_the_same_changes_nothing() -> None:
    """A new price changes an item, and neither its vector nor the index."""
    vectors = Vectors()
    meaning = Meaning(vectors.changes, 2)
    drawn: Changes = {"a": unit(np.array([1.0, 0.0])), "b": unit(np.array([1.0, 1.0])), "c": None}
    vectors.waiting = drawn
    meaning.refresh()
    before = meaning._state
    vectors.waiting = {**drawn}
    meaning.refresh()
    assert meaning._state is before
    vectors.waiting = {**drawn, "b": None, "c": drawn["a"]}
    meaning.refresh()
    assert {*meaning.near(unit(np.array([1.0, 0.0]))).item_ids} == {"a", "c"}
    assert meaning._state.centre.tolist() == [1.0, 0.0]


def test_words_and_meaning_are_joined() -> None:
    pytest.importorskip("tantivy")
    source = Source()
    titles = ["sofa blue", "couch", "mug", "sofa red"]
    source.put([Item(item_id=title, timestamp=0, title=title) for title in titles])
    finder = ItemFinder(cast("Any", source), nullcontext())
    near = Near(["couch", "sofa red", "unknown"], [0.9, 0.8, 0.7])
    found = finder.find("sofa", near=near)
    names = [finder.ids[number] for number in found.numbers.tolist()]
    assert (sorted(names[:2]), names[2:]) == (["sofa blue", "sofa red"], ["couch"])
    assert np.isnan(found.scores).tolist() == [False, False, True]
    assert {names[at] for at in np.flatnonzero(np.isnan(found.near))} == {"sofa blue"}
    assert not len(finder.find("?!").numbers)
    assert [finder.ids[it] for it in finder.find("", near=near).numbers] == ["couch", "sofa red"]


def test_only_words_that_an_item_has_are_exact() -> None:
    pytest.importorskip("tantivy")
    source = Source()
    titles = ["blue sofa", "red mug", "红色皮鞋"]
    source.put([Item(item_id=title, timestamp=0, title=title) for title in titles])
    finder = ItemFinder(cast("Any", source), nullcontext())
    exact = {"sofa": True, "sofas": True, "blue so": True, "皮鞋": True, "sofq": False}
    exact |= {"blue mug": False, "mug bleu": False, "皮鞋子": False, "zeppelin": False, "": False}
    assert {query: finder.find(query).text.exact for query in exact} == exact
