"""Model of a coupon's gain by user, served from plain arrays.

A model is linear in the features, or a forest of honest trees. `tactful coupons fit --install`
writes it into the folder `coupons` of the data directory, where it replaces the `gain` of the
campaign's definition, in a running server too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tactful.coupons.definitions import CouponDefinition
from tactful.errors import ConfigError
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file

FOLDER = "coupons"
"""Folder of the data directory with one model for each campaign."""

_FORMAT = 1
_LOOK_MS = 5_000
_Z95 = 1.959963984540054


class Forest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Complete binary trees of one depth, in groups that were learnt from the same users.

    Inner nodes are in level order. A user goes left where the feature is below the threshold.
    """

    depth: Annotated[int, Meta(ge=1, le=8)]
    groups: Annotated[int, Meta(ge=2)]  # number of groups, each with as many trees
    columns: list[list[int]]  # index of a feature, ``[trees, 2^depth - 1]``
    thresholds: list[list[float]]  # ``[trees, 2^depth - 1]``
    leaves: list[list[float]]  # gain in each leaf, ``[trees, 2^depth]``


class GainModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fitted model, as it is stored."""

    format: int = _FORMAT
    campaign: str  # name of the campaign
    kind: Literal["linear", "forest"]
    features: tuple[str, ...]  # names of the features, in the order of the columns
    weights: dict[str, float] = {}  # of a linear model, with `constant`
    forest: Forest | None = None
    users: int  # number of users that it was learnt from
    fitted_at: int  # epoch milliseconds
    margin: float  # profit from a unit of revenue that the gain was computed with


class Gain:
    """A model that is ready to be asked; a call takes some microseconds."""

    def __init__(self, model: GainModel) -> None:
        """Check and lay out the arrays.

        Raises:
            ConfigError: if the parts of the model do not fit each other.
        """
        self.model = model
        width = len(model.features)
        if model.forest is None:
            unknown = model.weights.keys() - {*model.features, "constant"}
            if model.kind != "linear" or unknown or not model.weights:
                raise ConfigError(f"the gain of {model.campaign} has no usable weights: fit again")
            self._weights = np.array([model.weights.get(name, 0.0) for name in model.features])
            self._constant = model.weights.get("constant", 0.0)
            return
        forest = model.forest
        trees, nodes = len(forest.leaves), 2**forest.depth - 1
        try:
            self._columns = np.array(forest.columns, np.intp).reshape(trees, nodes)
            self._thresholds = np.array(forest.thresholds, np.float32).reshape(trees, nodes)
            self._leaves = np.array(forest.leaves, np.float64).reshape(trees, nodes + 1)
        except ValueError as error:
            raise ConfigError(f"the forest of {model.campaign} is damaged: fit again") from error
        if not trees or trees % forest.groups or not np.isfinite(self._leaves).all():
            raise ConfigError(f"the forest of {model.campaign} is damaged: fit again")
        if self._columns.min() < 0 or self._columns.max() >= width:
            raise ConfigError(f"the forest of {model.campaign} names a feature that is not there")
        # Offsets of each tree in the flat arrays, which are faster to index.
        self._nodes, self._ends = np.arange(trees) * nodes, np.arange(trees) * (nodes + 1) - nodes
        self._flat = self._columns.ravel(), self._thresholds.ravel(), self._leaves.ravel()

    def of(self, values: NDArray[np.float64]) -> float:
        """Return the expected gain of one user, in units of money, from features ``[features]``."""
        if self.model.forest is None:
            return float(self._weights @ values) + self._constant
        return float(self._answers(values).mean())

    def interval(self, values: NDArray[np.float64]) -> tuple[float, float]:
        """Return the 95 % interval of the gain of a user; without bounds for a linear model.

        Each group of trees has seen another random half of the users, and the variance between
        halves is about that of the whole (Athey, Tibshirani, Wager, Annals of Statistics 47,
        2019, section 4: the bootstrap of little bags).
        """
        if self.model.forest is None:
            return -math.inf, math.inf
        groups = self._answers(values).reshape(self.model.forest.groups, -1).mean(axis=1)
        middle, reach = float(groups.mean()), _Z95 * float(groups.std(ddof=1))
        return middle - reach, middle + reach

    def of_all(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the expected gain of users, ``[users]``, from ``[users, features]``."""
        if self.model.forest is None:
            linear: NDArray[np.float64] = rows @ self._weights + self._constant
            return linear
        narrow, total = rows.astype(np.float32), np.zeros(len(rows))
        users = np.arange(len(rows))
        for columns, thresholds, leaves in zip(
            self._columns, self._thresholds, self._leaves, strict=True
        ):
            node = np.zeros(len(rows), np.intp)
            for _ in range(self.model.forest.depth):
                right = narrow[users, columns[node]] >= thresholds[node]
                node = 2 * node + 1 + right
            total += leaves[node - len(columns)]
        return total / len(self._leaves)

    def _answers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the answer of each tree, ``[trees]``."""
        assert self.model.forest is not None
        columns, thresholds, leaves = self._flat
        narrow, node = values.astype(np.float32), np.zeros(len(self._nodes), np.intp)
        for _ in range(self.model.forest.depth):
            place = self._nodes + node
            right = narrow.take(columns.take(place)) >= thresholds.take(place)
            node = 2 * node + 1 + right
        answers: NDArray[np.float64] = leaves.take(self._ends + node)
        return answers


class InstalledGains:
    """Expected gains by installed models, or by definitions where none is installed.

    A model is read again within five seconds of a change. One that is damaged, or was learnt from
    other features than the definition names, is ignored.
    """

    def __init__(self, data: Path, clock: Callable[[], int]) -> None:
        """Read from a data directory; the clock is in epoch milliseconds."""
        self._folder = data / FOLDER
        self._clock = clock
        self._gains: dict[str, tuple[int, Gain | None]] = {}  # with the time of the look

    def __call__(self, campaign: CouponDefinition, known: Mapping[str, Any]) -> float | None:
        """Return the expected gain of a coupon, in units of money; None without any model."""
        gain = self._installed(campaign)
        if gain is None:
            return expected_gain(campaign, known)
        return gain.of(np.array([number_or_0(known.get(name)) for name in campaign.features]))

    def _installed(self, campaign: CouponDefinition) -> Gain | None:
        now = self._clock()
        looked_at, gain = self._gains.get(campaign.name, (-_LOOK_MS, None))
        if not 0 <= now - looked_at < _LOOK_MS:
            gain = self._read(campaign)
            self._gains[campaign.name] = now, gain
        return gain

    def _read(self, campaign: CouponDefinition) -> Gain | None:
        try:
            gain = read_gain(self._folder, campaign.name)
        except ConfigError:
            return None
        fits = gain is not None and gain.model.features == campaign.features
        return gain if fits else None


def expected_gain(campaign: CouponDefinition, known: Mapping[str, Any]) -> float | None:
    """Return the gain by the weights of a definition, in units of money; None without weights."""
    if not campaign.gain:
        return None
    return sum(
        weight * (1.0 if name == "constant" else number_or_0(known.get(name)))
        for name, weight in campaign.gain.items()
    )


def number_or_0(value: object) -> float:
    """Return a feature as a number; 0 for anything else, and for what is not finite."""
    number = float(value) if isinstance(value, int | float) else 0.0
    return number if math.isfinite(number) else 0.0


def write_gain(folder: Path, model: GainModel) -> Path:
    """Store a model in a folder in the place of an older one, and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model.campaign}.json"
    replace_file(path, msgspec.json.encode(model))
    return path


def read_gain(folder: Path, campaign: str) -> Gain | None:
    """Read the model of a campaign; None if there is none.

    Raises:
        ConfigError: if its file is damaged.
    """
    path = folder / f"{campaign}.json"
    try:
        model = msgspec.json.decode(path.read_bytes(), type=GainModel)
    except FileNotFoundError:
        return None
    except (OSError, *DECODE_ERRORS) as error:
        raise ConfigError(f"{path}: no gain can be read here: {error}; fit it again") from error
    if model.format != _FORMAT or model.campaign != campaign:
        raise ConfigError(f"{path}: not the gain of {campaign} in this version: fit it again")
    return Gain(model)
