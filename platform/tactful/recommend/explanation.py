"""Explanation of a recommendation from its logged impression, at any later time.

Features are read as they were logged, and their contributions come from the forest of the version
that ranked the items. XGBoost is imported at the first explanation of a ranked recommendation: a
server needs it for nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.event_log.impressions import as_impression
from tactful.ranking.intent_effect import LoggedIntent
from tactful.ranking.model import Manifest, checked_version, load_trees, read_manifest, start_of
from tactful.schemas.recommendations import ExplainedItem, Explanation
from tactful_streaming.contract.log_entries import Event

if TYPE_CHECKING:
    import xgboost

_VERSIONS = 2
_NOT_RULES = frozenset(
    {
        *("applied", "arm", "channels", "experiment", "features", "forced"),
        *("intent", "items", "layout", "model_version", "propensity", "scores", "took_ms"),
    }
)
"""Properties of an impression; all others are rules that took part."""


class Explainer:
    """Explains recommendations by the versions in a models directory."""

    def __init__(self, models: Path, trusted: Collection[str] | None = None) -> None:
        """Read nothing yet; see `checked_version` for `trusted`."""
        self._models = models
        self._trusted = trusted
        self._forests: dict[str, tuple[Manifest, xgboost.Booster]] = {}
        self._lock = threading.Lock()  # a forest of XGBoost is for one thread

    def explain(self, impression: Event) -> Explanation:
        """Explain a recommendation; without contributions, and with a note, if its version is gone.

        Raises:
            ModelError: if the event is no impression.
        """
        shown = as_impression(impression, 0)
        if shown is None:
            raise ModelError(f"event {impression.event_id}: not an impression that can be read")
        properties: Mapping[str, Any] = impression.properties
        names: tuple[str, ...] = ()
        contributions: NDArray[np.float32] | None = None
        note = None
        if shown.features is None:
            note = "not ranked by a model: own repeats, similar visits, following items, popularity"
        else:
            try:
                with self._lock:
                    manifest, forest = self._forest(shown.version)
                    contributions = contributions_of(forest, shown.features)
                names = manifest.features
                if manifest.start:
                    place = names.index(manifest.start)
                    contributions[:, place] += start_of(shown.features, manifest.start, names)
            except ModelError as error:
                note = f"the contributions of features are no longer known: {error}"
        intent = LoggedIntent.read(properties.get("intent"))
        factors = None if intent is None else intent.factors
        items = [
            ExplainedItem(
                item_id=item,
                channel=_at(properties.get("channels"), place),
                score=_at(properties.get("scores"), place),
                intent=_at(factors, place),
                margin=None if contributions is None else float(contributions[place].sum()),
                features=_row(names, shown.features, place),
                contributions=_row(names, contributions, place),
            )
            for place, item in enumerate(shown.items)
        ]
        return Explanation(
            recommendation_id=impression.recommendation_id or "",
            at=impression.timestamp,
            ranking="heuristic" if shown.features is None else "learned",
            model_version=shown.version,
            experiment=properties.get("experiment"),
            arm=properties.get("arm"),
            forced=shown.forced,
            propensity=properties.get("propensity"),
            base=None if contributions is None else float(contributions[0, -1]),
            items=items,
            rules={name: value for name, value in properties.items() if name not in _NOT_RULES},
            note=note,
        )

    def _forest(self, version: str) -> tuple[Manifest, xgboost.Booster]:
        forest = self._forests.get(version)
        if forest is None:
            directory = checked_version(self._models, version, self._trusted)
            forest = read_manifest(directory), load_trees(directory)
            for old in list(self._forests)[: 1 - _VERSIONS]:
                del self._forests[old]
            self._forests[version] = forest
        return forest


def contributions_of(forest: xgboost.Booster, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the contribution of each feature to each margin, and last the base margin.

    They are SHAP values by the tree algorithm of Lundberg et al. ("Consistent Individualized
    Feature Attribution for Tree Ensembles", 2018, arXiv:1802.03888), as XGBoost computes them:
    with the base, those of a row add up to its margin. Shape (n, columns + 1).

    Raises:
        ModelError: if the forest takes another number of columns.
    """
    import xgboost

    if features.shape[1] != forest.num_features():
        raise ModelError(
            f"the impression has {features.shape[1]} features and the forest takes "
            f"{forest.num_features()}"
        )
    matrix = xgboost.DMatrix(features, nthread=1)
    contributions: NDArray[np.float32] = forest.predict(matrix, pred_contribs=True)
    return contributions


def _at(values: Any, place: int) -> Any:
    return values[place] if isinstance(values, list) and place < len(values) else None


def _row(
    names: tuple[str, ...], values: NDArray[np.float32] | None, place: int
) -> dict[str, float | None] | None:
    if values is None or not names:
        return None
    row = values[place, : len(names)].tolist()
    return {name: None if value != value else value for name, value in zip(names, row, strict=True)}
