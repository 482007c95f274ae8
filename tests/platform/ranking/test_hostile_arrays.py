"""Arrays that do not fit are refused by name: no stored model ends the process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.alone import alone
from tests.platform.ranking.test_forest import some_forest, some_rows

from tactful.catalogue.ids import ItemIds
from tactful.errors import ModelError
from tactful.kernels.forest import load_kernel
from tactful.ranking.forest import BinnedForest, bin_forest
from tactful.ranking.model import load_trees
from tactful.recall.cohorts import Cohorts
from tactful.recall.index import RecallIndex, build_index
from tactful.recall.neighbours import score_neighbours
from tactful.recall.tables import Interactions
from tactful.util import checksummed_directory as sealed
from tactful.vectors.build_index import build_vector_index
from tactful.vectors.ivf_index import VectorIndex
from tactful.vectors.updatable_index import LiveIndex

ITEMS = 40
Answer = Callable[[], bytes]
Change = Callable[[], None]


def attacked(attack_all: Callable[[Path], Counter[str]], folder: Path) -> Counter[str]:
    """Run attacks in a process of its own; if it dies, the failure names the last attack."""
    try:
        return alone(attack_all, folder)
    except BrokenProcessPool as error:
        raise AssertionError(f"died at {log_of(folder).read_text()}") from error


def log_of(folder: Path) -> Path:
    """Return the file that names the attack that runs."""
    return folder / "log"


def outcome(answer: Answer, wanted: bytes, path: Path) -> str:
    """Answer with a changed file: refused by name, the same, or another answer."""
    try:
        return "same" if answer() == wanted else "other"
    except ModelError as error:
        assert path.name in str(error) or path.parent.name in str(error), error
        return "refused"


def hostile(array: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any], bool]]:
    """Yield changes of an array: name, array, and whether any reader must refuse it."""
    yield "wider", array.astype(np.int64 if array.dtype != np.int64 else np.float64), True
    yield "other end first", array.astype(array.dtype.newbyteorder(">")), array.itemsize > 1
    yield "cut off", array[:-1], True
    yield "empty", array[:0], True
    yield "twice", np.concatenate([array, array]), True
    yield "one more dimension", array[..., None], True
    if array.ndim == 2:
        yield "by columns", np.asfortranarray(array), array.shape[1] > 1
        yield "fewer columns", array[:, :-1], True
    extremes: list[Any] = [np.nan, np.inf, -np.inf]
    certain = True
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        extremes = [limits.max, limits.min, limits.max // 2, 0, 1]
    for number, value in enumerate(extremes):
        for place in (0, array.size // 2, array.size - 1):
            changed = array.copy()
            changed.flat[place] = value
            certain = array.dtype.kind == "f" or number < 3
            yield f"{value} at {place}", changed, certain
        yield f"all {value}", np.full_like(array, value), certain
    if array.dtype == np.int64:
        yield "descending", array[::-1].copy(), True
    if array.dtype == np.bool_:
        yield "two", np.full(array.shape, 2, np.uint8).view(np.bool_), True
        yield "none", np.zeros_like(array), True


def with_headers(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield changes of the bytes of a file."""
    whole = path.read_bytes()
    yield "nothing", b""
    yield "half", whole[: len(whole) // 2]
    yield "more", whole + bytes(64)
    yield "text", b"{}" * 100
    yield "pickle", b"\x80\x04cos\nsystem\n."
    for place in range(0, min(len(whole), 400), 21):
        yield f"byte {place}", whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]


def seal_again(path: Path) -> None:
    """Write a seal that fits the files: a checksum stops nobody who changes an array."""
    seal = path.parent / "seal.json"
    if seal.exists():
        names = [file.name for file in path.parent.iterdir() if file.is_file() and file != seal]
        files = {name: sealed._measure(path.parent / name) for name in names}
        seal.write_bytes(msgspec.json.encode(sealed._Seal(files)))


def attack(folder: Path, answer: Answer, log: Path) -> Counter[str]:
    """Try every change of every file; return how often each outcome came."""
    wanted = answer()
    outcomes: Counter[str] = Counter()
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        if path.name in ("seal.json", "writer.lock"):
            continue
        whole = path.read_bytes()
        changes: list[tuple[str, Callable[[], object], bool]] = [
            (name, partial(path.write_bytes, content), False)
            for name, content in with_headers(path)
        ]
        if path.suffix == ".npy" and (array := np.load(path)).size:
            changes += [
                (name, partial(np.save, path, changed), certain)
                for name, changed, certain in hostile(array)
            ]
        for name, change, certain in changes:
            log.write_text(f"{path.name}: {name}")
            change()
            seal_again(path)
            result = outcome(answer, wanted, path)
            shorter = path.name == "popular.npy" and name in ("cut off", "empty")  # is a list, too
            assert result != "other" or not certain or shorter, f"{path.name}: {name}"
            outcomes[result] += 1
            path.write_bytes(whole)
            seal_again(path)
    return outcomes


def vectors_of(rows: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(1).standard_normal((rows, 4)).astype(np.float32)
    vectors[3] = 0.0
    return vectors


def a_recall_index() -> RecallIndex:
    generator = np.random.default_rng(0)
    item = generator.integers(0, ITEMS, 400)
    seen = Interactions(np.repeat(np.arange(80), 5), item, np.arange(400) * 1_000)
    people = [{"plan": "gold" if n % 2 else "none", "age": n} for n in range(80)]
    cohorts = Cohorts.fit(people, np.repeat(np.arange(80), 5), item, ITEMS, most=5)
    names = [f"item-é{n}" for n in range(ITEMS)]
    return build_index(names, seen, cohorts=cohorts, neighbours=5, dimensions=4)


def ask_recall(folder: Path) -> bytes:
    index = RecallIndex.load(folder)
    told: list[Any] = [[*index.item_ids], index.popular.tolist()]
    told.append(index.item_ids.rows_of([*index.item_ids, "no"]))
    for row in range(ITEMS):
        recent = np.array([row, (row * 7) % ITEMS], np.int64)
        scores = score_neighbours(index.following, index.together, index.sessions, recent, 1, ITEMS)
        told += [(s.rows.tolist(), s.values.tolist()) for s in scores]
        told.append(index.sessions.scores(recent.tolist()).ranked.tolist())
        told.append(index.nearest.nearest(index.vectors[row], 9)[0].tolist())
    lift = index.cohorts.lift({"plan": "gold", "age": 33})
    assert lift is not None
    told.append(index.cohorts.expected(lift).tolist())
    assert np.isfinite(index.content.weights).all()
    return repr(told).encode()


def attack_recall_index(tmp_path: Path) -> Counter[str]:
    folder = tmp_path / "index"
    a_recall_index().save(folder)
    return attack(folder, lambda: ask_recall(folder), log_of(tmp_path))


@pytest.mark.slow
def test_hostile_arrays_of_a_recall_index(tmp_path: Path) -> None:
    assert attacked(attack_recall_index, tmp_path)["refused"] > 500


def attack_cells(tmp_path: Path) -> Counter[str]:
    folder, log = tmp_path / "vectors", log_of(tmp_path)
    build_vector_index(vectors_of(300), exact_below=10).save(folder)

    def ask() -> bytes:
        index = VectorIndex.load(folder)
        near = [index.nearest(query, 20) for query in index.vectors[:40]]
        return b"".join(part.tobytes() for pair in near for part in pair)

    def numbers() -> Counter[str]:
        """Write other numbers over each part of the file of cells."""
        path, wanted = folder / "cells.faiss", ask()
        whole, outcomes = path.read_bytes(), attack(folder, ask, log)
        for place in range(0, len(whole) - 8, 12):
            for value in (-1, 1 << 40, 300):
                log.write_text(f"cells: {value} at {place}")
                number = value.to_bytes(8, "little", signed=True)
                path.write_bytes(whole[:place] + number + whole[place + 8 :])
                seal_again(path)
                outcomes[outcome(ask, wanted, path)] += 1
        return outcomes

    return numbers()


@pytest.mark.slow
def test_hostile_cells(tmp_path: Path) -> None:
    """Faiss trusts sizes and ids in its file: any of them could point anywhere."""
    assert attacked(attack_cells, tmp_path)["refused"] > 300


def attack_live_index(tmp_path: Path) -> Counter[str]:
    ids = ItemIds.of([f"i-{n}" for n in range(60)])
    trained, folder = VectorIndex(vectors_of(60)), tmp_path / "live"
    with LiveIndex(folder, ids, trained, writes=True, exact_below=10) as live:
        live.update({"new": np.ones(4, np.float32)})
        live.merge()
        live.update({"newer": -np.ones(4, np.float32), "i-5": None})

    def ask() -> bytes:
        with LiveIndex(folder, ids, trained, writes=False) as live:
            near = [live.snapshot.nearest(query, 9) for query in trained.vectors]
        return b"".join(part.tobytes() for pair in near for part in pair)

    log = log_of(tmp_path)
    return attack(folder, ask, log)


@pytest.mark.slow
def test_hostile_builds_and_journals_of_a_live_index(tmp_path: Path) -> None:
    assert attacked(attack_live_index, tmp_path)["refused"] > 200


def attack_binned_forest(tmp_path: Path) -> Counter[str]:
    kernel, path, log = load_kernel(), tmp_path / "forest.npz", log_of(tmp_path)
    bin_forest(some_forest(np.random.default_rng(8)), kernel).save(path, source="abc")
    rows = some_rows(np.random.default_rng(9), 50)

    def ask() -> bytes:
        forest = BinnedForest.load(path, source="abc")
        assert forest is not None
        if forest.columns != rows.shape[1]:
            raise ModelError(f"{path}: `load_model` compares the columns with the features")
        return forest.margins(rows, kernel).tobytes()

    def change_each() -> Counter[str]:
        wanted, arrays = ask(), dict(np.load(path))
        outcomes: Counter[str] = Counter()
        for name in {*arrays} - {"format", "source"}:
            for change, changed, _ in hostile(np.atleast_1d(arrays[name])):
                log.write_text(f"{name}: {change}")
                scalar = arrays[name].ndim == 0 and changed.size == 1
                np.savez(path, **{**arrays, name: changed.reshape(()) if scalar else changed})
                outcomes[outcome(ask, wanted, path)] += 1
        np.savez_compressed(path, **arrays)
        assert outcome(ask, wanted, path) == "refused"
        return outcomes

    return change_each()


@pytest.mark.slow
def test_hostile_arrays_of_a_binned_forest(tmp_path: Path) -> None:
    assert attacked(attack_binned_forest, tmp_path)["refused"] > 120


def attack_trees(tmp_path: Path) -> Counter[str]:
    path, log = tmp_path / "model.ubj", log_of(tmp_path)
    forest = some_forest(np.random.default_rng(8), rounds=2)
    rows = some_rows(np.random.default_rng(9), 50)
    document = json.loads(bytes(forest.save_raw("json")))

    def ask() -> bytes:
        return load_trees(tmp_path).inplace_predict(rows).tobytes()

    def change_each() -> Counter[str]:
        forest.save_model(path)
        wanted = ask()
        model = document["learner"]["gradient_booster"]["model"]
        outcomes: Counter[str] = Counter()
        for holder in (model, model["trees"][1], document["learner"]["learner_model_param"]):
            for name, value in [*holder.items()]:
                for changed in hostile_members(value):
                    holder[name] = changed
                    log.write_text(f"{name}: {changed}")
                    path.write_bytes(ubjson(document))
                    outcomes[outcome(ask, wanted, path)] += 1
                holder[name] = value
        whole = ubjson(document)
        for place in range(0, len(whole), 23):
            path.write_bytes(whole[:place])
            assert outcome(ask, wanted, path) == "refused"
        return outcomes

    return change_each()


@pytest.mark.slow
def test_hostile_trees_of_xgboost(tmp_path: Path) -> None:
    """XGBoost follows children and categories wherever they point, in circles, too."""
    assert attacked(attack_trees, tmp_path)["refused"] > 60


def hostile_members(value: Any) -> Iterator[Any]:
    if isinstance(value, str):
        yield from ("-1", "999999999", "", "0")
    elif isinstance(value, list) and value and not isinstance(value[0], dict):
        yield from (value[:-1], value * 2, [])
        for extreme in (2**31 - 1, -(2**31), 1_000, 0, 1):
            yield [*value[:-1], extreme]
            yield [extreme, *value[1:]]
    elif isinstance(value, list):
        yield from (value[:-1], value * 2, [5])
    elif isinstance(value, int):
        yield from (-1, 2**31 - 1)


def ubjson(value: Any) -> bytes:
    """Encode as XGBoost does, but for arrays of one type."""
    if isinstance(value, dict):
        parts = [_sized(key) + ubjson(member) for key, member in value.items()]
        return b"{" + b"".join(parts) + b"}"
    if isinstance(value, list):
        count = b"[#L" + len(value).to_bytes(8, "big")
        return count + b"".join(map(ubjson, value))
    if isinstance(value, str):
        return b"S" + _sized(value)
    if isinstance(value, float):
        return b"d" + np.array(value, ">f4").tobytes()
    return b"l" + int(value).to_bytes(4, "big", signed=True)


def _sized(text: str) -> bytes:
    return b"L" + len(text.encode()).to_bytes(8, "big") + text.encode()
