"""Check of an XGBoost model before XGBoost reads it, which trusts the arrays of trees.

The file is UBJSON, of which XGBoost writes objects without and arrays with a count::

    {L "learner" {L "gradient_booster" … [$l#L 7 …]  seven numbers of 32 bits
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.util.checked_arrays import is_partition, within

_NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8"} | {
    b"d": ">f4",
    b"D": ">f8",
}
_DEEPEST = 24
_MOST_CATEGORIES = 1 << 20

# Arrays of a tree with one element for each node.
_OF_NODES = (
    *("left_children", "right_children", "parents", "split_indices", "split_conditions"),
    *("default_left", "split_type", "base_weights", "loss_changes", "sum_hessian"),
)


def check_model(path: Path) -> None:
    """Check that the trees of a model are trees, and fit each other.

    Raises:
        ModelError: if they do not, or the file cannot be read.
    """
    try:
        content = path.read_bytes()
        reader = _Reader(content)
        document = reader.value()
        if reader.at != len(content):
            raise ValueError(f"{len(content) - reader.at} bytes follow its end")
        _check_learner(document["learner"])
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(f"{path}: not an XGBoost model: {error!r}") from error


def _check_learner(learner: Mapping[str, Any]) -> None:
    parameters = learner["learner_model_param"]
    columns, classes = int(parameters["num_feature"]), int(parameters["num_class"])
    targets = int(parameters.get("num_target", "1"))
    _require(
        0 < columns < 1 << 20 and 0 <= classes < 1 << 10 and 0 < targets < 1 << 10, "its parameters"
    )
    for name in ("feature_names", "feature_types"):
        _require(len(learner.get(name, ())) in (0, columns), name)
    booster = learner["gradient_booster"]
    if booster["name"] == "gblinear":
        weights = booster["model"]["weights"]
        _require(len(weights) == (columns + 1) * max(classes, 1), "weights")
        return
    of_trees = booster["gbtree"] if booster["name"] == "dart" else booster
    model = of_trees["model"]
    trees = model["trees"]
    count = len(trees)
    _require(int(model["gbtree_model_param"]["num_trees"]) == count, "num_trees")
    info = _integers(model["tree_info"])
    _require(len(info) == count and within(info, max(classes, targets)), "tree_info")
    if (rounds := model.get("iteration_indptr")) is not None and len(rounds):
        _require(is_partition(_integers(rounds), len(rounds) - 1, count), "iteration_indptr")
    if booster["name"] == "dart":
        _require(len(booster["weight_drop"]) == count, "weight_drop")
    _require(not any(len(part) for part in model.get("cats", {}).values()), "cats")
    for number, tree in enumerate(trees):
        _check_tree(tree, number, columns)


def _check_tree(tree: Mapping[str, Any], number: int, columns: int) -> None:
    parameters = tree["tree_param"]
    count = int(parameters["num_nodes"])
    name = f"tree {number}"
    _require(int(parameters.get("size_leaf_vector", "1")) <= 1, f"{name} has vectors in its leaves")
    _require(int(parameters["num_feature"]) == columns, f"num_feature of {name}")
    _require(count > 0 and int(tree["id"]) == number, name)
    for array in _OF_NODES:
        _require(len(tree[array]) == count, f"{array} of {name}")
    left, right = _integers(tree["left_children"]), _integers(tree["right_children"])
    inner = np.flatnonzero(left != -1)
    children = np.concatenate([left[inner], right[inner]])
    # No node has two parents, and the root none: so no path returns.
    one_parent = len(np.unique(children)) == len(children)
    _require(
        np.array_equal(inner, np.flatnonzero(right != -1))
        and within(children, count, begin=1)
        and one_parent
        and np.array_equal(_integers(tree["parents"])[children], np.tile(inner, 2)),
        f"the nodes of {name}",
    )
    _require(within(_integers(tree["split_indices"]), columns), f"split_indices of {name}")
    _require(np.isfinite(np.asarray(tree["base_weights"], np.float64)).all(), f"{name} is infinite")
    conditions = np.asarray(tree["split_conditions"], np.float64)
    _require(not np.isnan(conditions).any(), f"split_conditions of {name}")
    _check_categories(tree, count, name)


def _check_categories(tree: Mapping[str, Any], count: int, name: str) -> None:
    nodes = _integers(tree["categories_nodes"])
    starts, sizes = _integers(tree["categories_segments"]), _integers(tree["categories_sizes"])
    categories = _integers(tree["categories"])
    by_category = np.flatnonzero(_integers(tree["split_type"]))
    _require(
        len(starts) == len(sizes) == len(nodes)
        and np.array_equal(nodes, by_category)
        and within(starts, len(categories) + 1)
        and within(sizes, len(categories) + 1)
        and within(starts + sizes, len(categories) + 1)
        and within(categories, _MOST_CATEGORIES)
        and within(nodes, count),
        f"categories of {name}",
    )


def _require(fits: Any, problem: str) -> None:
    if not fits:
        raise ValueError(f"its arrays do not fit: {problem}")


def _integers(values: Sequence[Any]) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError("an array must have integers")
    return array.astype(np.int64)


class _Reader:
    """Reader of UBJSON as XGBoost writes it; ValueError for anything else."""

    def __init__(self, content: bytes) -> None:
        """Begin at the front."""
        self._content = content
        self.at = 0

    def value(self, depth: int = 0) -> Any:
        """Read a value with its marker."""
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        marker = self._take(1)
        if marker in _NUMBERS:
            return self._number(marker)
        if marker == b"S":
            return self._text()
        if marker == b"{":
            return self._object(depth + 1)
        if marker == b"[":
            return self._array(depth + 1)
        constants = {b"T": True, b"F": False, b"Z": None}
        if marker not in constants:
            raise ValueError(f"the marker {marker!r} at byte {self.at - 1}")
        return constants[marker]

    def _object(self, depth: int) -> dict[str, Any]:
        read: dict[str, Any] = {}
        while self._content[self.at : self.at + 1] != b"}":
            name = self._text()
            if name in read:
                raise ValueError(f"{name!r} occurs twice")
            read[name] = self.value(depth)
        self.at += 1
        return read

    def _array(self, depth: int) -> Any:
        kind = self._take(1) if self._skip(b"$") else None
        if not self._skip(b"#"):
            values = []
            while not self._skip(b"]"):
                values.append(self.value(depth))
            return values
        count = self._count()
        if kind is None:
            return [self.value(depth) for _ in range(count)]
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self._take(count * dtype.itemsize), dtype)

    def _text(self) -> str:
        return self._take(self._count()).decode()

    def _count(self) -> int:
        marker = self._take(1)
        count = self._number(marker) if marker in b"iUIlL" else -1
        if not 0 <= count <= len(self._content):
            raise ValueError(f"the count before byte {self.at}")
        return int(count)

    def _number(self, marker: bytes) -> Any:
        dtype = np.dtype(_NUMBERS[marker])
        return np.frombuffer(self._take(dtype.itemsize), dtype)[0].item()

    def _take(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self._content):
            raise ValueError("the end is missing")
        return self._content[self.at - count : self.at]

    def _skip(self, marker: bytes) -> bool:
        matches = self._content[self.at : self.at + 1] == marker
        self.at += matches
        return matches
