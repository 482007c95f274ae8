"""Neighbours of an item against the tables and vectors they come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.platform.shop import learned

from tactful.catalogue.catalogue import Catalogue
from tactful.recall.candidates import CatalogueView
from tactful.recall.common_pairs import CommonPairs
from tactful.recall.popularity import Popularity
from tactful.recall.tables import Interactions
from tactful.recommend.item_neighbours import NeighbourReader
from tactful.vectors.ivf_index import Snapshot
from tactful_streaming.contract.log_entries import Item

COUNT = 12


@pytest.fixture(scope="module")
def view() -> CatalogueView:
    """Items of a learned index, of which pairs of three people count, and one that came later."""
    generator = np.random.default_rng(3)
    visits = np.sort(generator.integers(0, 60, 240))
    seen = Interactions(visits, generator.integers(0, COUNT, 240), np.arange(240), visits % 25)
    index = replace(learned(COUNT), pairs=CommonPairs.learn(seen, COUNT, least=3))
    items = {
        item_id: Item(item_id=item_id, timestamp=0, title=f"Blue tea {item_id}")
        for item_id in (*index.item_ids, "later")
    }
    return CatalogueView(
        index,
        Snapshot.of(index.item_ids, index.nearest),
        Catalogue(index.item_ids, items),
        Popularity.of(np.arange(COUNT + 1), COUNT + 1),
    )


def test_neighbours_are_those_of_recall_with_the_people_of_common_pairs(
    view: CatalogueView,
) -> None:
    index, people = view.index, 0
    for row, item_id in enumerate(index.item_ids):
        read = NeighbourReader(view, 5).read(item_id, [])
        assert read.people == (int(index.pairs.people[row]) or None)
        assert read.minimum_people == 3
        for listed, table, pairs in (
            (read.together, index.together, index.pairs.together),
            (read.following, index.following, index.pairs.following),
        ):
            known = table.items[row] >= 0
            expected = [index.item_ids[other] for other in table.items[row][known].tolist()]
            assert [it.item_id for it in listed] == expected[:5]
            np.testing.assert_allclose(
                [it.score for it in listed], table.weights[row][known][:5], atol=1e-4
            )
            span = pairs.of(row)
            counted = {
                index.item_ids[other]: count
                for other, count in zip(
                    pairs.items[span].tolist(), pairs.people[span].tolist(), strict=True
                )
            }
            assert [it.people for it in listed] == [counted.get(it.item_id) for it in listed]
            people += sum(it.people is not None for it in listed)
    assert people > 10, "some pairs are common, or the test says nothing"


def test_vectors_are_compared_with_all_others(view: CatalogueView) -> None:
    vectors = view.search.vectors_of(np.arange(COUNT))
    for row, item_id in enumerate(view.index.item_ids):
        cosines = vectors @ vectors[row]
        cosines[row] = -np.inf
        read = NeighbourReader(view, 4).read(item_id, []).vectors
        assert item_id not in [it.item_id for it in read]
        np.testing.assert_allclose([it.score for it in read], np.sort(cosines)[::-1][:4], atol=1e-3)
        assert all(it.title == f"Blue tea {it.item_id}" for it in read)


def test_an_item_that_came_later_has_neighbours_by_its_words_alone(view: CatalogueView) -> None:
    read = NeighbourReader(view, 2).read("later", [("i03", 0.5), ("i04", 0.25), ("i05", 0.1)])
    assert (read.people, read.vectors, read.together, read.following) == (None, [], [], [])
    assert [(it.item_id, it.score, it.words) for it in read.described] == [
        ("i03", 0.5, ["blue", "tea"]),
        ("i04", 0.25, ["blue", "tea"]),
    ]
    assert NeighbourReader(view, 2).read("unknown", []).described == []


def test_neighbours_by_encoders_are_others_with_their_titles(view: CatalogueView) -> None:
    near = [("i02", 1.0), ("i03", 0.5), ("later", 0.4), ("i04", 0.25)]
    read = NeighbourReader(view, 2).read("i02", [], meaning=near)
    assert read.meaning is not None and read.pictures is None
    assert [(it.item_id, it.title, it.score) for it in read.meaning] == [
        ("i03", "Blue tea i03", 0.5),
        ("later", "Blue tea later", 0.4),
    ]
    unknown = NeighbourReader(view, 2).read("unknown", [], meaning=[], pictures=near[1:])
    assert unknown.meaning == [] and unknown.pictures is not None
    assert [it.item_id for it in unknown.pictures] == ["i03", "later"]
