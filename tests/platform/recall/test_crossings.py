"""Bridges in a recall index: as a naive reading of the formula, saved and loaded, and refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tactful.catalogue.request_context import CrossedVector
from tactful.domains.bridge import Bridge, Embedding
from tactful.errors import ModelError
from tactful.recall.crossings import Crossings, OwnProfiles, TrainedBridge
from tactful.recall.index import RecallIndex, empty_index

PEOPLE = 50


def trained(releasing: str, seed: int, rows: list[int]) -> TrainedBridge:
    rng = np.random.default_rng(seed)
    base, weights = rng.uniform(0.05, 0.5, len(rows)), rng.normal(0, 0.3, (3, len(rows)))
    bridge = Bridge(rng.normal(0, 0.1, 3), base, weights)
    return TrainedBridge(releasing, "v1", PEOPLE, np.array(rows, np.int32), bridge)


SHOP, FORUM = trained("shop", 1, [0, 2, 5]), trained("forum", 2, [2, 3])
CROSSINGS = Crossings(bridges=[SHOP, FORUM])
VECTORS = {"shop": (0.5, -0.25, 0.1), "forum": (-0.7, 0.1, 0.0)}


def naive(names: list[str]) -> dict[int, tuple[float, float]]:
    """Lift and expected share of each row, one after the other."""
    lifts: dict[int, list[tuple[float, float]]] = {}
    for name in names:
        it = {"shop": SHOP, "forum": FORUM}[name]
        for place, row in enumerate(it.rows.tolist()):
            share = float(it.bridge.base[place])
            for axis, number in enumerate(VECTORS[name]):
                away = number - float(it.bridge.centre[axis])
                share += away * float(it.bridge.weights[axis, place])
            prior = 0.5 / PEOPLE
            lift = math.log((max(share, 0.0) + prior) / (float(it.bridge.base[place]) + prior))
            lifts.setdefault(row, []).append((lift, float(it.bridge.base[place])))
    found = {}
    for row, pairs in lifts.items():
        lift = sum(one for one, _ in pairs) / len(pairs)
        found[row] = lift, math.log(sum(base for _, base in pairs) / len(pairs)) + lift
    return found


@pytest.mark.parametrize("names", [["shop"], ["forum"], ["shop", "forum"]])
def test_a_taste_is_the_mean_lift_of_all_bridges(names: list[str]) -> None:
    taste = CROSSINGS.taste([CrossedVector(name, "v1", VECTORS[name]) for name in names])
    assert taste is not None
    wanted = naive(names)
    assert taste.lift.rows.tolist() == sorted(wanted)
    lifts = [wanted[row][0] for row in sorted(wanted)]
    assert taste.lift.values.tolist() == pytest.approx(lifts, rel=1e-5)
    assert taste.ranked.tolist() == sorted(wanted, key=lambda row: -wanted[row][1])


@pytest.mark.parametrize(
    "profile",
    [
        CrossedVector("shop", "v2", VECTORS["shop"]),
        CrossedVector("blog", "v1", VECTORS["shop"]),
        CrossedVector("shop", "v1", (0.5,)),
    ],
)
def test_a_profile_that_no_bridge_reads_says_nothing(profile: CrossedVector) -> None:
    assert CROSSINGS.taste([profile]) is None


def test_an_index_keeps_its_crossings(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    embedding = Embedding(rng.random(0), rng.random((0, 3)))
    own = OwnProfiles("v9", 17)
    none = [
        replace(
            SHOP,
            rows=np.zeros(0, np.int32),
            bridge=replace(SHOP.bridge, base=np.zeros(0), weights=np.zeros((3, 0))),
        )
    ]
    index = replace(empty_index(), crossings=Crossings(own, embedding, none))
    index.save(tmp_path / "index")
    loaded = RecallIndex.load(tmp_path / "index").crossings
    assert loaded.own == own and loaded.embedding is not None
    assert [(it.releasing, it.embedding, it.people) for it in loaded.bridges] == [
        ("shop", "v1", PEOPLE)
    ]
    empty_index().save(tmp_path / "plain")
    assert RecallIndex.load(tmp_path / "plain").crossings == Crossings()


@pytest.mark.parametrize("broken", ["rows", "centre", "base", "weights"])
def test_damaged_bridges_are_refused_by_file(tmp_path: Path, broken: str) -> None:
    arrays = CROSSINGS.arrays()
    CROSSINGS.save(tmp_path)
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    loaded = Crossings.load(tmp_path, 6)
    assert [it.rows.tolist() for it in loaded.bridges] == [[0, 2, 5], [2, 3]]
    with pytest.raises(ModelError, match="crossing_0_rows"):
        Crossings.load(tmp_path, 5)
    wrong = arrays[f"crossing_1_{broken}"].copy()
    wrong = wrong[::-1].copy() if broken == "rows" else np.full_like(wrong, np.nan)
    np.save(tmp_path / f"crossing_1_{broken}.npy", wrong)
    with pytest.raises(ModelError, match=f"crossing_1_{broken}"):
        Crossings.load(tmp_path, 6)
