"""Item ids in files: the same as a tuple and a dictionary."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.catalogue.ids import ItemIds

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.lists(texts, unique=True, max_size=40), st.lists(texts, max_size=10))
@settings(deadline=None)
def test_rows_and_ids_are_those_of_a_dictionary(known: list[str], others: list[str]) -> None:
    ids = ItemIds.of(known)
    rows = {item_id: row for row, item_id in enumerate(known)}
    assert list(ids) == known
    assert ids == known
    assert [ids[row] for row in range(len(known))] == known
    assert ids[1:4] == tuple(known[1:4])
    some = np.arange(len(known))[::-2]
    assert ids.of_rows(some) == [known[row] for row in some.tolist()]
    again = np.repeat(some, 3)
    assert ids.of_rows(again) == [known[row] for row in again.tolist()]
    for item_id in (*known, *others):
        assert ids.row(item_id) == rows.get(item_id)
        assert (item_id in ids) == (item_id in rows)
    asked = [*others, *known, *others]
    assert ids.rows_of(asked) == [rows.get(item_id) for item_id in asked]


@given(st.lists(texts, unique=True, max_size=40), st.lists(texts, unique=True, max_size=40))
@settings(deadline=None)
def test_ids_are_found_in_those_of_others(ours: list[str], theirs: list[str]) -> None:
    theirs += [item_id for item_id in ours[::2] if item_id not in theirs]
    rows = {item_id: row for row, item_id in enumerate(theirs)}
    found = ItemIds.of(ours).rows_in(ItemIds.of(theirs))
    assert found.tolist() == [rows.get(item_id, -1) for item_id in ours]
    assert ItemIds.of(ours).rows_in(ItemIds.of(ours)).tolist() == [*range(len(ours))]


def test_many_ids_are_found_in_those_of_others() -> None:
    ours = [f"item-{number}" for number in range(20_000)]
    theirs = [f"item-{number}" for number in range(30_000, 100, -2)]
    rows = {item_id: row for row, item_id in enumerate(theirs)}
    wanted = [rows.get(item_id, -1) for item_id in ours]
    assert ItemIds.of(ours).rows_in(ItemIds.of(theirs)).tolist() == wanted
    assert ItemIds.of(theirs).rows_of(ours) == [rows.get(item_id) for item_id in ours]


def test_ids_survive_the_disk_and_are_mapped(tmp_path: Path) -> None:
    known = [f"item-{number}" for number in range(5_000)] + ["", "é", "日本"]
    ItemIds.of(known).save(tmp_path)
    again = ItemIds.load(tmp_path)
    assert again == known
    assert all(again.row(item_id) == row for row, item_id in enumerate(known))
    assert isinstance(again._text.base, np.memmap)
    (tmp_path / "none").mkdir()
    ItemIds.of([]).save(tmp_path / "none")
    assert ItemIds.load(tmp_path / "none") == ()
    assert ItemIds.load(tmp_path / "none").row("x") is None


def test_ids_whose_hashes_collide_are_told_apart() -> None:
    ids = ItemIds.of(["a", "b", "c"])
    same = np.full(3, ids._hashes[0])
    collided = ItemIds(ids._text, ids._ends, same, np.arange(3, dtype=np.int32))
    planted = int(ids._rows[0])
    assert collided.row(ids[planted]) == planted
    assert [collided.row(item_id) for item_id in "xyz"] == [None] * 3
    every = ItemIds(ids._text, ids._ends, np.full(3, ids._hashes[1]), np.arange(3, dtype=np.int32))
    hashed = ids[int(ids._rows[1])]
    assert every.rows_of([hashed, "x", hashed]) == [ids.row(hashed), None, ids.row(hashed)]
    only = ItemIds.of([hashed])
    assert only.rows_in(every).tolist() == [ids.row(hashed)]
    found = every.rows_in(only).tolist()
    assert found == [0 if item_id == hashed else -1 for item_id in every]


@given(
    st.lists(texts, unique=True, min_size=1, max_size=40),
    st.lists(texts, max_size=20),
    st.integers(1, 5),
)
@settings(deadline=None)
def test_colliding_hashes(known: list[str], others: list[str], hashes: int) -> None:
    def digest(encoded: bytes) -> bytes:
        return bytes([len(encoded) % hashes]) * 8

    with patch("tactful.catalogue.ids._digest", digest):
        ids = ItemIds.of(known)
        found = ids.rows_of([*known, *others])
    rows = {item_id: row for row, item_id in enumerate(known)}
    assert found == [rows.get(item_id) for item_id in (*known, *others)]


def test_ids_given_twice_and_rows_beyond_the_end_are_refused() -> None:
    with pytest.raises(ValueError, match="'b' occurs twice"):
        ItemIds.of(["a", "b", "c", "b"])
    ids = ItemIds.of(["a", "b"])
    assert ids[-1] == "b"
    for row in (2, -3):
        with pytest.raises(IndexError):
            ids[row]
