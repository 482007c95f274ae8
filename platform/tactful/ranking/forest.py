"""A boosted forest laid out for fast, exact evaluation by ranks of thresholds.

A split tests whether ``x < threshold``. Few of these tests differ between the trees of a forest,
so a split names its threshold by its rank in the column, a byte, and each threshold is compared
once for all trees. The leaf values and the order in which they are summed stay XGBoost's, in
float32, so a margin has the same bits as XGBoost's own. The idea to iterate over thresholds
instead of trees goes back to QuickScorer (Lucchese et al., SIGIR 2015); the kernel that evaluates
many rows at once is in `tactful.kernels.forest`.

Reading a forest needs no XGBoost: a server imports it only to fall back to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tactful.errors import ModelError, UnsupportedForest
from tactful.util.checked_arrays import is_finite, is_partition, within

if TYPE_CHECKING:
    import xgboost

    from tactful.kernels.forest import Kernel

MAX_DEPTH = 8
"""Greatest depth of a tree: the number of a leaf is a byte."""

BAND = 254
"""Most thresholds in a band: their ranks are bytes, and 255 is no rank."""

_FORMAT = 1
_NEVER = 255
_MAX_BANDS = 1 << 15
_PROBES = 512

Floats = NDArray[np.float32]
Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class BinnedForest:
    """Trees over ranks of thresholds.

    A *band* is a run of at most `BAND` ascending thresholds of one column. Each band `b` has two
    planes of answers, one for each threshold, which differ in where a missing value goes: right in
    plane ``2 * b``, left in ``2 * b + 1``. Trees are perfect: a leaf above the last level is
    repeated, below splits that always go left. Nodes are in level order, leaves from left to right.
    """

    columns: int
    base: np.float32
    band_column: Offsets  # column of each band
    band_start: Offsets  # start of each band in `thresholds`, and the end
    thresholds: Floats  # thresholds of all bands
    depth: Offsets  # depth of each tree, 0 to `MAX_DEPTH`
    node_start: Offsets  # start of each tree in `plane` and `cut`, and the end
    plane: NDArray[np.uint16]  # plane that a node reads
    # rank in the band of the threshold from which on a node sends values right; 255 if it sends all
    # left
    cut: NDArray[np.uint8]
    leaf_start: Offsets  # start of each tree in `leaves`, and the end
    leaves: Floats  # values, margin of one tree

    def margins(self, features: Floats, kernel: Kernel) -> Floats:
        """Compute the margin of each row, shape (n,), with the bits of XGBoost's own.

        Features have shape (n, columns), NaN for missing; fastest when the columns are contiguous.

        Raises:
            ValueError: if the number of columns differs.
        """
        if features.ndim != 2 or features.shape[1] != self.columns:
            raise ValueError(
                f"features have shape {features.shape}, the forest takes (n, {self.columns})"
            )
        columns = np.require(features.T, np.float32, ("C", "A"))
        margins = np.empty(len(features), np.float32)
        kernel(columns, self.base, *self.arrays, margins)
        return margins

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Arguments of the kernel after the base, in its order."""
        return (
            *(self.band_column, self.band_start, self.thresholds, self.depth, self.node_start),
            *(self.plane, self.cut, self.leaf_start, self.leaves),
        )

    def save(self, path: Path, *, source: str) -> None:
        """Write plain arrays to an ``.npz``; `source` is the digest of the XGBoost model."""
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez(path, allow_pickle=False, format=_FORMAT, source=source, **arrays)

    @classmethod
    def load(cls, path: Path, *, source: str) -> BinnedForest | None:
        """Read a file that `save` wrote; None if there is none of this format made from `source`.

        Raises:
            ModelError: if the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                if any(part.compress_type for part in stored.zip.infolist()):
                    raise ValueError("its parts are compressed, which `save` does not do")
                if int(stored["format"]) != _FORMAT or str(stored["source"]) != source:
                    return None
                arrays: dict[str, Any] = {field.name: stored[field.name] for field in fields(cls)}
            arrays["columns"] = int(arrays["columns"])
            arrays["base"] = np.float32(arrays["base"].item())
        except FileNotFoundError:
            return None
        except Exception as error:  # zipfile and numpy may raise anything for a damaged file
            raise ModelError(f"{path}: not a binned forest: {error}") from error
        forest = cls(**arrays)
        _check(path, forest)
        return forest


def bin_forest(forest: xgboost.Booster, kernel: Kernel) -> BinnedForest:
    """Lay out an XGBoost forest, and check on probes that its margins are the same.

    Raises:
        UnsupportedForest: if only XGBoost can evaluate the forest: it has another booster than
            ``gbtree``, several outputs, categorical splits, a tree deeper than `MAX_DEPTH`, or
            margins that differ on a probe.
    """
    document: dict[str, Any] = json.loads(bytes(forest.save_raw("json")))
    learner = document["learner"]
    trees = _trees(learner)
    columns = int(learner["learner_model_param"]["num_feature"])
    thresholds = _thresholds(trees, columns)
    bands = [
        (column, values[start : start + BAND])
        for column, values in enumerate(thresholds)
        for start in range(0, len(values), BAND)
    ]
    if len(bands) > _MAX_BANDS:
        raise UnsupportedForest(
            f"its splits have more than {_MAX_BANDS * BAND} different thresholds"
        )
    counts = [-(-len(values) // BAND) for values in thresholds]
    first_band = np.cumsum([0, *counts])
    laid = [_lay_out(tree, thresholds, first_band) for tree in trees]
    binned = BinnedForest(
        columns=columns,
        base=_base(forest, document, columns),
        band_column=np.array([column for column, _ in bands], np.int64),
        band_start=_starts([len(values) for _, values in bands]),
        thresholds=_joined([values for _, values in bands], np.float32),
        depth=np.array([tree.depth for tree in laid], np.int64),
        node_start=_starts([len(tree.plane) for tree in laid]),
        plane=_joined([tree.plane for tree in laid], np.uint16),
        cut=_joined([tree.cut for tree in laid], np.uint8),
        leaf_start=_starts([len(tree.leaves) for tree in laid]),
        leaves=_joined([tree.leaves for tree in laid], np.float32),
    )
    probes = _probes(binned)
    wanted = forest.inplace_predict(probes, predict_type="margin")
    if not np.array_equal(binned.margins(probes, kernel).view(np.int32), wanted.view(np.int32)):
        raise UnsupportedForest("its margins differ from those of this version of XGBoost")
    return binned


@dataclass(frozen=True)
class _PerfectTree:
    """One perfect tree, as in `BinnedForest`."""

    depth: int
    plane: NDArray[np.uint16]
    cut: NDArray[np.uint8]
    leaves: Floats


def _trees(learner: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        raise UnsupportedForest(f"its booster is {booster['name']}")
    parameters = learner["learner_model_param"]
    if int(parameters.get("num_class", 0)) > 1 or int(parameters.get("num_target", 1)) > 1:
        raise UnsupportedForest("it has several outputs")
    trees: Sequence[Mapping[str, Any]] = booster["model"]["trees"]
    for tree in trees:
        if any(tree.get("split_type", ())):
            raise UnsupportedForest("it splits by category")
        if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
            raise UnsupportedForest("its leaves are vectors")
    return trees


def _thresholds(trees: Sequence[Mapping[str, Any]], columns: int) -> list[Floats]:
    """Return the distinct thresholds of each column, ascending."""
    distinct: list[set[float]] = [set() for _ in range(columns)]
    for tree in trees:
        for left, column, threshold in zip(
            tree["left_children"], tree["split_indices"], tree["split_conditions"], strict=True
        ):
            if left >= 0:
                distinct[column].add(float(threshold))
    # Adding zero makes -0.0 the 0.0 that it equals, so that the two are one threshold.
    values = [np.unique(np.array(sorted(s), np.float32) + np.float32(0.0)) for s in distinct]
    if any(np.isnan(of_column).any() for of_column in values):
        raise UnsupportedForest("it splits at a threshold that is not a number")
    return values


def _lay_out(
    tree: Mapping[str, Any], thresholds: Sequence[Floats], first_band: NDArray[np.int64]
) -> _PerfectTree:
    left, right = tree["left_children"], tree["right_children"]
    depth = _depth(left, right)
    inner = (1 << depth) - 1
    plane = np.zeros(inner, np.uint16)
    cut = np.full(inner, _NEVER, np.uint8)
    leaves = np.empty(1 << depth, np.float32)
    waiting = [(0, 0, 0)]
    while waiting:
        node, place, level = waiting.pop()
        value = np.float32(tree["split_conditions"][node])
        if left[node] < 0:
            below = 1 << (depth - level)
            start = (place + 1 - (1 << level)) * below
            leaves[start : start + below] = value
            continue
        column = tree["split_indices"][node]
        rank = int(np.searchsorted(thresholds[column], value))
        band = int(first_band[column]) + rank // BAND
        plane[place] = 2 * band + int(bool(tree["default_left"][node]))
        cut[place] = rank % BAND
        waiting.append((left[node], 2 * place + 1, level + 1))
        waiting.append((right[node], 2 * place + 2, level + 1))
    return _PerfectTree(depth, plane, cut, leaves)


def _depth(left: Sequence[int], right: Sequence[int]) -> int:
    deepest = 0
    waiting = [(0, 0)]
    while waiting:
        node, level = waiting.pop()
        deepest = max(deepest, level)
        if deepest > MAX_DEPTH:
            raise UnsupportedForest(f"a tree is deeper than {MAX_DEPTH}")
        if left[node] >= 0:
            waiting += [(left[node], level + 1), (right[node], level + 1)]
    return deepest


def _base(forest: xgboost.Booster, document: Mapping[str, Any], columns: int) -> np.float32:
    """Return the base margin, by XGBoost's own conversion of the base score.

    It is the margin of the same model with leaves of -0, which change no sum, not even -0.
    """
    for tree in document["learner"]["gradient_booster"]["model"]["trees"]:
        tree["split_conditions"] = [-0.0] * len(tree["split_conditions"])
    bare = type(forest)({"nthread": 1})
    bare.load_model(bytearray(json.dumps(document).encode()))
    margins = bare.inplace_predict(np.zeros((1, columns), np.float32), predict_type="margin")
    return np.float32(margins[0])


def _probes(forest: BinnedForest) -> Floats:
    """Make rows on, beside and between the thresholds, with all special floats."""
    generator = np.random.default_rng(0)
    rows = np.empty((_PROBES, forest.columns), np.float32)
    tiny = np.finfo(np.float32).smallest_subnormal
    odd = np.array([np.nan, 0.0, -0.0, tiny, -tiny, np.inf, -np.inf], np.float32)
    for column in range(forest.columns):
        bands = np.flatnonzero(forest.band_column == column)
        at = [forest.thresholds[forest.band_start[b] : forest.band_start[b + 1]] for b in bands]
        exact = _joined([*at, np.zeros(1, np.float32)], np.float32)
        with np.errstate(over="ignore"):
            below = np.nextafter(exact, np.float32(-np.inf))
        drawn = np.concatenate([exact, below, odd, odd[:1].repeat(len(exact) // 2)])
        rows[:, column] = generator.choice(drawn, _PROBES)
    return rows


def _starts(lengths: Sequence[int]) -> Offsets:
    return np.cumsum([0, *lengths], dtype=np.int64)


def _joined(parts: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(parts).astype(kind) if parts else np.empty(0, kind)


def _check(path: Path, forest: BinnedForest) -> None:
    """Check every number that the kernel trusts, since files may be damaged."""
    arrays = (
        (forest.band_column, np.int64),
        (forest.band_start, np.int64),
        (forest.thresholds, np.float32),
        (forest.depth, np.int64),
        (forest.node_start, np.int64),
        (forest.plane, np.uint16),
        (forest.cut, np.uint8),
        (forest.leaf_start, np.int64),
        (forest.leaves, np.float32),
    )
    good = all(array.ndim == 1 and array.dtype == kind for array, kind in arrays) and (
        is_finite(np.array([forest.base]))
        and is_finite(forest.leaves)
        and within(forest.band_column, forest.columns)
        and is_partition(forest.band_start, len(forest.band_column), len(forest.thresholds))
        and int(np.diff(forest.band_start).max(initial=0)) <= BAND
        and _ascend(forest)
        and within(forest.depth, MAX_DEPTH + 1)
        and is_partition(forest.node_start, len(forest.depth), len(forest.plane))
        and np.array_equal(np.diff(forest.node_start) + 1, 1 << forest.depth)
        and len(forest.cut) == len(forest.plane)
        and within(forest.plane, max(2 * len(forest.band_column), 1))
        and _cuts_are_thresholds(forest)
        and is_partition(forest.leaf_start, len(forest.depth), len(forest.leaves))
        and np.array_equal(np.diff(forest.leaf_start), 1 << forest.depth)
    )
    if not good:
        raise ModelError(f"{path}: not a binned forest: its arrays do not fit together")


def _ascend(forest: BinnedForest) -> bool:
    """Return whether the thresholds of each band ascend; NaN does not."""
    follows = np.ones(len(forest.thresholds), np.bool_)
    starts = forest.band_start[:-1]
    follows[starts[starts < len(follows)]] = False
    values = forest.thresholds
    ascend = np.concatenate([values[:1] == values[:1], values[1:] > values[:-1]])
    return bool((ascend | ~follows).all()) and not np.isnan(values).any()


def _cuts_are_thresholds(forest: BinnedForest) -> bool:
    splits = forest.cut != _NEVER
    lengths = np.diff(forest.band_start)[forest.plane[splits] // 2]
    return bool((forest.cut[splits] < lengths).all())
