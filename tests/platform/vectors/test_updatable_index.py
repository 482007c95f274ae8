"""An index that changes while it is searched: against a dictionary, through merges and kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from inspect import getsource
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

import tactful.vectors.updatable_index
from tactful.catalogue.ids import ItemIds
from tactful.errors import ModelError, StorageError
from tactful.vectors.build_index import build_vector_index, merge_changes
from tactful.vectors.ivf_index import Snapshot, VectorIndex
from tactful.vectors.updatable_index import LiveIndex

DIMENSIONS = 8
Vectors = dict[str, NDArray[np.float32]]


def drawn(seed: int) -> NDArray[np.float32]:
    vector = np.random.default_rng(seed).standard_normal(DIMENSIONS)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def base(rows: int, seed: int = 0) -> tuple[ItemIds, VectorIndex]:
    vectors = np.stack([drawn(seed * 100_000 + row) for row in range(rows)])
    return ItemIds.of([f"i{row}" for row in range(rows)]), VectorIndex(vectors)


def held(ids: ItemIds, index: VectorIndex) -> Vectors:
    return dict(zip(ids, index.vectors, strict=True))


def names(snapshot: Snapshot) -> list[str]:
    return [*snapshot.ids, *snapshot.new_ids]


def check(snapshot: Snapshot, wanted: Vectors, seed: int, banned: frozenset[str]) -> None:
    """Everything a snapshot says, against the dictionary it should equal."""
    known = names(snapshot)
    assert len(set(known)) == len(known) == len(snapshot)
    assert snapshot.rows_of(known) == [*range(len(known))]
    assert wanted.keys() <= set(known)
    zero = np.zeros(DIMENSIONS, np.float32)
    vectors = snapshot.vectors_of(np.arange(len(known)))
    assert np.array_equal(vectors, np.stack([wanted.get(it, zero) for it in known]))
    query = drawn(seed)
    allowed = np.array([item_id not in banned for item_id in known])
    ranked = sorted((it for it in wanted if it not in banned), key=lambda it: -wanted[it] @ query)
    for count in (3, len(known)):
        rows, scores = snapshot.nearest(query, count, allowed)
        found = {known[row] for row in rows}
        assert len(found) == len(rows) and found <= set(ranked)
        # Of items with the same vector any may be the last: the scores say that none is better.
        assert scores == pytest.approx([wanted[it] @ query for it in ranked[:count]], abs=1e-6)
        assert scores == pytest.approx(vectors[rows] @ query, abs=1e-6)
        assert (np.diff(scores) <= 0).all()


class Differential(RuleBasedStateMachine):
    """A writer and a reader of one directory, and the dictionary that both must equal."""

    @initialize(rows=st.integers(1, 30))
    def start(self, rows: int) -> None:
        self.directory = Path(os.environ["LIVE_INDEX_TESTS"]) / os.urandom(8).hex()
        self.made = base(rows)
        self.wanted = held(*self.made)
        self.writer = LiveIndex(self.directory, *self.made, writes=True)
        self.reader = LiveIndex(self.directory, *self.made, writes=False)

    @rule(
        changes=st.dictionaries(
            st.sampled_from([*(f"i{n}" for n in range(30)), *(f"new{n}" for n in range(12))]),
            st.none() | st.integers(1_000, 2_000),
            max_size=6,
        )
    )
    def update(self, changes: dict[str, int | None]) -> None:
        given = {it: None if seed is None else drawn(seed) for it, seed in changes.items()}
        self.writer.update(given)
        for item_id, vector in given.items():
            if vector is None:
                self.wanted.pop(item_id, None)
            else:
                self.wanted[item_id] = vector

    @rule()
    def merge(self) -> None:
        before = names(self.writer.snapshot)
        self.writer.merge()
        assert self.writer.snapshot.changes == 0
        assert names(self.writer.snapshot) == before, "rows stay where they are"

    @rule()
    def follow(self) -> None:
        self.reader.follow()
        check(self.reader.snapshot, self.wanted, 1, frozenset())

    @rule(torn=st.binary(max_size=7))
    def restart(self, torn: bytes) -> None:
        self.writer.close()
        with max(self.directory.glob("journal-*.log")).open("ab") as journal:
            journal.write(torn[:7])  # less than a header
        self.writer = LiveIndex(self.directory, *self.made, writes=True)

    @precondition(lambda self: hasattr(self, "writer"))
    @invariant()
    def equal(self) -> None:
        seed = len(self.wanted)
        check(self.writer.snapshot, self.wanted, seed, frozenset())
        check(self.writer.snapshot, self.wanted, seed, frozenset(sorted(self.wanted)[::2]))

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            self.writer.close()


@pytest.mark.slow
def test_index_equals_a_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVE_INDEX_TESTS", str(tmp_path))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nothing here cuts the power
    from hypothesis.stateful import run_state_machine_as_test

    limits = settings(max_examples=30, stateful_step_count=15, deadline=None)
    run_state_machine_as_test(Differential, settings=limits)


def test_batched_look_ups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look-up gives the interpreter's lock back for a moment: many starve other threads."""

    def alone(ids: ItemIds, item_id: str) -> int:
        raise AssertionError(f"{item_id} is looked up alone")

    ids, made = base(5)
    vectors = {f"new-{n}": np.ones(DIMENSIONS, np.float32) for n in range(3)}
    with LiveIndex(tmp_path, ids, made, writes=True) as live:
        monkeypatch.setattr(ItemIds, "row", alone)
        live.update({**vectors, ids[2]: None, "never-there": None})
        assert live.snapshot.rows_of(["new-2", ids[2], "never-there"]) == [7, 2, None]


@pytest.mark.slow
def test_the_delta_and_the_cells_are_searched_as_one(tmp_path: Path) -> None:
    ids, exact = base(3_000)
    made = build_vector_index(exact.vectors, exact_below=200, target=0.99)
    assert made.tuning.cells
    with LiveIndex(tmp_path, ids, made, writes=True, exact_below=200, target=0.99) as live:
        changed = {f"i{row}": drawn(10_000 + row) for row in range(0, 900, 3)}
        changed |= {f"new{n}": drawn(20_000 + n) for n in range(100)}
        gone = {f"i{row}": None for row in range(1, 900, 3)}
        live.update({**changed, **gone})
        wanted = {**held(ids, made), **changed}
        for item_id in gone:
            del wanted[item_id]
        for merged in (False, True):
            if merged:
                tuning = live.merge()
                assert tuning.recall >= 0.99
                assert live.tuning == tuning
            known = names(live.snapshot)
            found = 0
            for seed in range(50):
                query = drawn(seed)
                rows, _ = live.snapshot.nearest(query, 100)
                right = sorted(wanted, key=lambda it: -wanted[it] @ query)[:100]
                found += len({known[row] for row in rows} & set(right))
                assert not {known[row] for row in rows} & gone.keys()
            assert found >= 0.97 * 50 * 100


@pytest.mark.slow
def test_a_merge_tunes_on_what_was_asked(tmp_path: Path) -> None:
    ids, exact = base(1_000)
    made = build_vector_index(exact.vectors, exact_below=100)
    with LiveIndex(tmp_path, ids, made, writes=True, exact_below=100) as live:
        assert live.merge().source == "mixtures"
        for seed in range(150):
            live.snapshot.nearest(drawn(seed), 10)
        assert (live.merge().source, live.tuning.queries) == ("requests", 150)


def test_updates_during_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = base(50)
    building, go_on = threading.Event(), threading.Event()
    build = merge_changes

    def slow(*arguments: Any, **options: Any) -> tuple[ItemIds, VectorIndex]:
        building.set()
        assert go_on.wait(120)
        return build(*arguments, **options)

    with LiveIndex(tmp_path, *made, writes=True) as live:
        live.update({"before": drawn(1)})
        monkeypatch.setattr(tactful.vectors.updatable_index, "merge_changes", slow)
        merging = threading.Thread(target=live.merge)
        merging.start()
        assert building.wait(120)
        reader = LiveIndex(tmp_path, *made, writes=False)
        live.update({"during": drawn(2), "i3": None, "before": drawn(3)})
        wanted = {**held(*made), "before": drawn(3), "during": drawn(2)}
        del wanted["i3"]
        check(live.snapshot, wanted, 4, frozenset())
        assert live.build == 0
        reader.follow()
        check(reader.snapshot, wanted, 4, frozenset())
        go_on.set()
        merging.join(120)
        assert live.build == 1
        check(live.snapshot, wanted, 4, frozenset())
        reader.follow()
        assert reader.build == 1
        check(reader.snapshot, wanted, 4, frozenset())


def test_what_a_merge_made_needless_is_deleted(tmp_path: Path) -> None:
    with LiveIndex(tmp_path, *base(5), writes=True) as live:
        for number in range(3):
            live.update({f"new{number}": drawn(number)})
            live.merge()
        left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*"))
        assert left == ["builds/000003"]
        assert [path.name for path in tmp_path.glob("journal-*")] == ["journal-000003.log"]


_VICTIM = f"""
import sys
from pathlib import Path
import numpy as np
from numpy.typing import NDArray
from tactful.catalogue.ids import ItemIds
from tactful.vectors.updatable_index import LiveIndex
from tactful.vectors.ivf_index import VectorIndex

DIMENSIONS = {DIMENSIONS}
{getsource(drawn)}
{getsource(base)}
"""
_VICTIM += """
live = LiveIndex(Path(sys.argv[1]), *base(40), writes=True)
number = int(sys.argv[2])
while True:
    live.update({f"new{number}": drawn(number), f"i{number % 40}": drawn(number + 1)})
    print(number, flush=True)
    number += 1
    if number % 5 == 0:
        live.merge()
"""


def _killed_run(directory: Path, start: int, moment: float) -> int:
    """Run updates and merges, kill -9 after `moment` seconds of them; the last one confirmed."""
    command = [sys.executable, "-c", _VICTIM, str(directory), str(start)]
    root = Path(__file__).parents[3]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    last = int(process.stdout.readline())
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split("\n")
    process.wait()
    return max([last, *(int(line) for line in rest[:-1] if line)])


def _after(updates: int) -> Vectors:
    wanted = held(*base(40))
    for number in range(updates):
        wanted[f"new{number}"] = drawn(number)
        wanted[f"i{number % 40}"] = drawn(number + 1)
    return wanted


def _survived(directory: Path, confirmed: int) -> int:
    """Check that nothing confirmed is lost; how many updates there are."""
    with LiveIndex(directory, *base(40), writes=True) as live:
        found = sum(item_id.startswith("new") for item_id in names(live.snapshot))
        assert found >= confirmed + 1
        # What was being written when the process died may be there in part: one update is two
        # records, and only whole ones count.
        exact = _after(found)
        known = names(live.snapshot)
        stored = dict(zip(known, live.snapshot.vectors_of(np.arange(len(known))), strict=True))
        last = f"i{(found - 1) % 40}"
        assert stored.keys() == exact.keys()
        assert all(np.array_equal(stored[it], exact[it]) for it in exact if it != last)
        live.update({f"new{found - 1}": drawn(found - 1), last: drawn(found)})
        check(live.snapshot, exact, 1, frozenset())
        return found


MANY = np.random.default_rng(0).uniform(0, 0.4, 20).tolist()


@pytest.mark.parametrize(
    "moments", [[0.0, 0.05, 0.11], pytest.param(MANY, marks=pytest.mark.slow, id="20")]
)
def test_kill_9_at_any_moment_loses_nothing_confirmed(tmp_path: Path, moments: list[float]) -> None:
    updates = 0
    for moment in moments:
        updates = _survived(tmp_path, _killed_run(tmp_path, updates, moment))


@pytest.mark.parametrize("at", ["index", "ids", "current", "forget"])
def test_death_during_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    class Death(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Death

    live = LiveIndex(tmp_path, *base(20), writes=True)
    live.update({"a": drawn(1)})
    with monkeypatch.context() as patch:
        if at == "index":
            patch.setattr(VectorIndex, "save", die)
        elif at == "ids":
            patch.setattr(ItemIds, "save", die)
        elif at == "current":
            patch.setattr(tactful.vectors.updatable_index, "replace_file", die)
        else:
            patch.setattr(LiveIndex, "_delete_old", die)
        with pytest.raises(Death):
            live.merge()
    live.update({"b": drawn(2), "i1": None})
    with pytest.raises(StorageError, match="another process writes"):
        LiveIndex(tmp_path, *base(20), writes=True)
    wanted = {**held(*base(20)), "a": drawn(1), "b": drawn(2)}
    del wanted["i1"]
    check(live.snapshot, wanted, 3, frozenset())
    live.close()
    with LiveIndex(tmp_path, *base(20), writes=True) as again:
        check(again.snapshot, wanted, 3, frozenset())
        again.merge()
        check(again.snapshot, wanted, 3, frozenset())


def test_planted_deletion_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(self: LiveIndex, number: int) -> FileIO:
        for path in self._directory.glob("journal-*.log"):
            path.unlink()
        return FileIO(self._path(number), "ab")

    live = LiveIndex(tmp_path, *base(5), writes=True)
    live.update({"a": drawn(1)})
    monkeypatch.setattr(LiveIndex, "_append_to", hasty)
    monkeypatch.setattr(VectorIndex, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        live.merge()
    monkeypatch.undo()
    live.close()
    with LiveIndex(tmp_path, *base(5), writes=True) as again, pytest.raises(AssertionError):
        check(again.snapshot, {**held(*base(5)), "a": drawn(1)}, 2, frozenset())


def test_damage_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    with LiveIndex(tmp_path, *base(5), writes=True) as live:
        live.update({"a": drawn(1)})
        live.update({"b": drawn(2)})
    journal = tmp_path / "journal-000000.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    for writes in (True, False):
        with pytest.raises(ModelError, match=r"damaged at byte 0\. Stop the server and delete"):
            LiveIndex(tmp_path, *base(5), writes=writes)
    journal.write_bytes(whole)
    with LiveIndex(tmp_path, *base(5), writes=True) as live:
        live.merge()
        vectors = tmp_path / "builds" / "000001" / "index" / "vectors.npy"
        intact = vectors.read_bytes()
        vectors.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
        with pytest.raises(ModelError, match=r"vectors\.npy: damaged"):
            LiveIndex(tmp_path, *base(5), writes=False)
    (tmp_path / "current.json").write_bytes(b"three")
    with pytest.raises(ModelError, match="does not name a build"):
        LiveIndex(tmp_path, *base(5), writes=True)


def test_a_damaged_new_build_leaves_the_reader_where_it_was(tmp_path: Path) -> None:
    with LiveIndex(tmp_path, *base(5), writes=True) as live:
        reader = LiveIndex(tmp_path, *base(5), writes=False)
        live.update({"a": drawn(1)})
        live.merge()
        ids = tmp_path / "builds" / "000001" / "ids" / "item_ids_text.npy"
        ids.write_bytes(ids.read_bytes()[:-1])
        with pytest.raises(ModelError, match=r"item_ids_text\.npy: damaged"):
            reader.follow()
        check(reader.snapshot, held(*base(5)), 1, frozenset())


def test_only_the_writer_changes_and_only_what_fits(tmp_path: Path) -> None:
    with LiveIndex(tmp_path, *base(5), writes=True) as live:
        reader = LiveIndex(tmp_path, *base(5), writes=False)
        for act in (lambda: reader.update({"a": drawn(1)}), reader.merge):
            with pytest.raises(ModelError, match="opened to read"):
                act()
        with pytest.raises(ModelError, match="same training"):
            live.update({"a": drawn(1), "b": np.ones(3, np.float32)})
        check(live.snapshot, held(*base(5)), 1, frozenset())


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_latest_vector_of_a_row_is_read(seed: int, some_left: bool, some_new: bool) -> None:
    generator = np.random.default_rng(seed)
    built = generator.standard_normal((30, 4)).astype(np.float32)
    kept = generator.random(30) < 0.7 if some_left else None
    rows = np.flatnonzero(generator.random(40) < 0.3) if some_new else np.zeros(0, np.int64)
    vectors = generator.standard_normal((len(rows), 4)).astype(np.float32)
    every = np.zeros((40, 4), np.float32)
    every[:30] = built
    if kept is not None:
        every[:30][~kept] = 0.0
    every[rows] = vectors
    asked = generator.integers(0, 40, 25)
    ids = ItemIds.of([f"i{row}" for row in range(30)])
    snapshot = Snapshot(ids, VectorIndex(built), (), {}, rows, vectors, kept)
    assert np.array_equal(snapshot.vectors_of(asked), every[asked])
