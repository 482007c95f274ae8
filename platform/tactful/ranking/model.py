"""The ranking model: an XGBoost forest, its recall index and a manifest.

A model is a directory: ``manifest.json``, ``model.ubj`` (the forest), ``forest.npz`` (the same,
laid out for serving) and ``index/`` (the recall index). ``champion.json`` beside the versions names
the one that serves; it is replaced atomically, so a reader gets the old model or the new one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tactful.errors import ModelError, UnsupportedForest
from tactful.ranking.calibration import Calibration
from tactful.ranking.features import RANKING_FEATURES
from tactful.ranking.forest import BinnedForest, bin_forest
from tactful.ranking.intent_effect import Trust
from tactful.ranking.xgboost_file import check_model
from tactful.recall.index import RecallIndex
from tactful.util.mapped_arrays import portions
from tactful.util.signing import check_directory
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file

if TYPE_CHECKING:
    import xgboost

_LOG = logging.getLogger(__name__)

_FORMAT = 1
_POINTER = "champion.json"
_TREES = "model.ubj"
_BINNED = "forest.npz"
_LEAST_SHARE = 1e-4

START = "blend"
"""Column that the trees of a new model correct."""

Margins = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Description of a model."""

    name: str
    features: tuple[str, ...]  # names of the input columns, in order
    definitions: str  # fingerprint of the feature definitions it was trained on
    trained_until: int  # event time up to which events were used, epoch milliseconds
    data_hash: str
    rows: int
    questions: int  # number of lists behind the rows
    label: str = ""  # weakest event type by which an item counted as taken; empty in earlier ones
    # column whose logarithm the trees correct, see `start_of`; empty for none
    start: str = ""
    # measured on questions later than its training data, which also chose the number of trees: a
    # little too good, so never figures to claim
    metrics: dict[str, float]
    gains: dict[str, float]
    version: str = ""  # registry version, empty until registered
    run_id: str = ""  # MLflow run it came from, empty until registered
    shown: int = 0  # lists of its training data that were really shown
    # rate at which each of their places is looked at, relative to the first
    looked: list[float] = []
    # map from margins to probabilities; None if too few items were taken
    calibration: Calibration | None = None
    # share of the places for items that are new to the user, where neither request nor settings
    # name one
    discovery: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    trust: Trust = Trust()  # in the intents of requests
    format: int = _FORMAT


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """Version that serves."""

    version: str
    previous: str = ""  # the champion before, for a rollback; empty for the first


@dataclass(frozen=True)
class RankingModel:
    """A model in memory, ready to score."""

    manifest: Manifest
    index: RecallIndex
    # by the ``kernel`` of this package, or by ``xgboost`` where that is not covered
    evaluated: Literal["kernel", "xgboost"]
    # returns margins, shape (n,), larger is better: of the trees, XGBoost's own to the last bit,
    # and what they start from. Features: shape (n, columns of the server), NaN for missing
    score: Margins

    def ranks_by(self, columns: Collection[str]) -> bool:
        """Return whether the trees make use of any of some columns."""
        return any(self.manifest.gains.get(name, 0.0) > 0.0 for name in columns)


def start_of(
    features: NDArray[np.float32], column: str = START, names: Sequence[str] = RANKING_FEATURES
) -> NDArray[np.float32]:
    """Return the margins that the trees correct, shape (n,): the logarithm of a column.

    `features` is of shape (n, len(names)). Without a column they are 0.
    """
    if not column:
        return np.zeros(len(features), np.float32)
    values = features[:, names.index(column)].astype(np.float64)
    margins: NDArray[np.float64] = np.log(np.fmax(values, 0.0) + _LEAST_SHARE)
    return margins.astype(np.float32)


def margins_of(
    forest: xgboost.Booster,
    features: NDArray[np.float32],  # shape (n, columns)
    column: str = START,
    names: Sequence[str] | None = None,  # columns that the trees take; None: all
    of: Sequence[str] = RANKING_FEATURES,  # names of the columns of `features`
) -> NDArray[np.float32]:
    """Return what the trees say on top of `start_of`, shape (n,)."""
    margins = [np.zeros(0, np.float32)]
    for part in portions(features):
        own = part
        if names is not None and names != of:
            own = part[:, [*map(of.index, names)]]
        trees: NDArray[np.float32] = forest.inplace_predict(own, predict_type="margin")
        margins.append(trees + start_of(part, column))
    return np.concatenate(margins)


def save_model(
    directory: Path,
    manifest: Manifest,
    forest: xgboost.Booster,
    index: RecallIndex,
) -> None:
    """Write a model directory; an existing one is completed, not cleared."""
    from tactful.kernels.forest import load_kernel

    directory.mkdir(parents=True, exist_ok=True)
    path = directory / _TREES
    forest.save_model(path)
    (directory / _BINNED).unlink(missing_ok=True)
    try:
        binned = bin_forest(forest, load_kernel())
    except UnsupportedForest as reason:
        _LOG.warning("XGBoost itself will evaluate this forest, several times slower: %s", reason)
    else:
        binned.save(directory / _BINNED, source=_digest(path))
    index.save(directory / "index")
    (directory / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of a model directory.

    Raises:
        ModelError: if it is missing or of another format.
    """
    path = directory / "manifest.json"
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, *DECODE_ERRORS) as error:
        raise ModelError(f"{path}: cannot be read as a model manifest: {error}") from error
    if manifest.format != _FORMAT:
        raise ModelError(
            f"{path}: model has format {manifest.format}, this version reads {_FORMAT}; "
            "train again with `tactful train`"
        )
    return manifest


def load_model(
    directory: Path, *, definitions: str, names: Sequence[str] = RANKING_FEATURES
) -> RankingModel:
    """Load a model for serving, and compile its kernels.

    Args:
        directory: of the model.
        definitions: fingerprint of the features that the server computes.
        names: columns that the server lays out.

    Raises:
        ModelError: if a part is missing or damaged, or the model was trained on other features than
            the server computes (`definitions`); the message names the difference.
    """
    manifest = read_manifest(directory)
    _check_schema(directory, manifest.features, names)
    if manifest.start and manifest.start not in manifest.features:
        raise ModelError(f"{directory}: starts from {manifest.start!r}, which is no feature of it")
    if manifest.definitions != definitions:
        raise ModelError(
            f"{directory}: trained on feature definitions {manifest.definitions[:12]}, the engine "
            f"computes {definitions[:12]}; train again with `tactful train`"
        )
    evaluated, margins = _load_forest(directory, len(manifest.features))
    if manifest.features != tuple(names):
        margins = partial(_of_columns, margins, [*map(names.index, manifest.features)])
    if manifest.start:
        margins = partial(_started, margins, manifest.start)
    return RankingModel(manifest, RecallIndex.load(directory / "index"), evaluated, margins)


def read_pointer(models: Path) -> Pointer | None:
    """Return the version that serves; None before the first promotion.

    Raises:
        ModelError: if the pointer is damaged.
    """
    path = models / _POINTER
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pointer)
    except FileNotFoundError:
        return None
    except DECODE_ERRORS as error:
        raise ModelError(f"{path}: not a champion pointer: {error}") from error


def missing_pointer(models: Path) -> Path | None:
    """Return where the pointer to the champion is missing, if there are versions."""
    path = models / _POINTER
    versions = any((models / "versions").glob("[!.]*"))
    return path if versions and not path.exists() else None


def write_pointer(models: Path, pointer: Pointer) -> None:
    """Set the version that serves, atomically and durably."""
    models.mkdir(parents=True, exist_ok=True)
    replace_file(models / _POINTER, msgspec.json.encode(pointer))


def version_directory(models: Path, version: str) -> Path:
    """Return the directory of a version."""
    return models / "versions" / version


def untrained_recall(models: Path) -> Path:
    """Return the directory of the recall index that serves while there is no champion."""
    return models / "live" / "recall"


def checked_version(models: Path, version: str, trusted: Collection[str] | None) -> Path:
    """Return the directory of a version after a check of its signature; None checks nothing.

    Raises:
        SignatureError: if none of the `trusted` keys has signed its files.
    """
    directory = version_directory(models, version)
    if trusted is not None:
        check_directory(directory, trusted)
    return directory


def load_trees(directory: Path) -> xgboost.Booster:
    """Load the forest of a model directory by XGBoost itself, for one thread.

    Raises:
        ModelError: if it is missing or damaged.
    """
    import xgboost

    path = directory / _TREES
    check_model(path)  # XGBoost reads wherever a damaged file points
    forest = xgboost.Booster({"nthread": 1})
    try:
        forest.load_model(path)
    except xgboost.core.XGBoostError as error:
        reason = str(error).partition("\n")[0]  # a stack trace follows
        raise ModelError(f"{path}: not an XGBoost model: {reason}") from error
    return forest


def gains(forest: xgboost.Booster, names: Sequence[str]) -> Mapping[str, float]:
    """Return the total gain by feature name, largest first."""
    raw: dict[str, Any] = forest.get_score(importance_type="total_gain")
    named: dict[str, float] = {names[int(key[1:])]: value for key, value in raw.items()}
    return dict(sorted(named.items(), key=lambda pair: -pair[1]))


def _of_columns(
    margins: Margins, columns: list[int], features: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Score by some of the columns: those of a model of an earlier version."""
    return margins(features.T[columns].T)


def _started(margins: Margins, column: str, features: NDArray[np.float32]) -> NDArray[np.float32]:
    return margins(features) + start_of(features, column)


def _load_forest(directory: Path, columns: int) -> tuple[Literal["kernel", "xgboost"], Margins]:
    """Load a forest; import XGBoost only if it is not laid out, or cannot be."""
    from tactful.kernels.forest import load_kernel

    try:
        binned = BinnedForest.load(directory / _BINNED, source=_digest(directory / _TREES))
    except ModelError as error:
        _LOG.warning("%s; it is made anew from %s", error, _TREES)
        binned = None
    if binned is not None:
        _check_columns(directory, binned.columns, columns)
        return "kernel", partial(binned.margins, kernel=load_kernel())
    forest = load_trees(directory)
    _check_columns(directory, forest.num_features(), columns)
    try:
        binned = bin_forest(forest, load_kernel())
    except UnsupportedForest as reason:
        _LOG.warning("XGBoost itself evaluates %s, several times slower: %s", directory, reason)
        return "xgboost", partial(forest.inplace_predict, predict_type="margin")
    return "kernel", partial(binned.margins, kernel=load_kernel())


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error


def _check_columns(directory: Path, columns: int, wanted: int) -> None:
    if columns != wanted:
        raise ModelError(
            f"{directory / _TREES}: takes {columns} columns where the manifest has "
            f"{wanted} features; the files are not of one model"
        )


def _check_schema(directory: Path, present: Sequence[str], names: Sequence[str]) -> None:
    """Check that a model has columns of the server, in their order; an earlier one has fewer."""
    unknown = [name for name in present if name not in names]
    places = [names.index(name) for name in present if not unknown]
    if unknown or not places or places != sorted(set(places)):
        raise ModelError(
            f"{directory}: the model's features are not the server's: has unknown "
            f"{unknown or 'none'}"
            + ("" if unknown else ", the order differs")
            + "; train again with `tactful train`"
        )
