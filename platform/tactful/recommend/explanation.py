"""Why a list came out as it did: computed from the list as it was logged, at any time later.

Nothing is recomputed that could have changed: the features are those the list was ranked by, and
their contributions come from the forest of the version that ranked it. XGBoost is imported when a
list of a model is first explained, since a server does without it otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.event_log.impressions import as_impression
from tactful.ranking.model import load_trees, read_manifest, version_directory
from tactful.schemas.recommendations import ExplainedItem, Explanation
from tactful_streaming.contract.log_entries import Event

if TYPE_CHECKING:
    import xgboost

_VERSIONS = 2
_TOLD = frozenset(
    {
        "applied",
        "arm",
        "channels",
        "experiment",
        "features",
        "forced",
        "items",
        "layout",
        "model_version",
        "propensity",
        "scores",
        "took_ms",
    }
)
"""Properties of an impression that no rule made; others are rules that took part."""


class Explainer:
    """Explains lists of the versions in a models directory."""

    def __init__(self, models: Path) -> None:
        """Nothing is read yet.

        Args:
            models: directory with the model versions.
        """
        self._models = models
        self._forests: dict[str, tuple[tuple[str, ...], xgboost.Booster]] = {}
        self._one = threading.Lock()  # a forest of XGBoost is for one thread

    def explain(self, impression: Event) -> Explanation:
        """Explain a list.

        Args:
            impression: the event of the list, as it was logged.

        Returns:
            The explanation. Where the version's files are gone, without contributions and with a
            note that says so.

        Raises:
            ModelError: if the event is no list.
        """
        shown = as_impression(impression, 0)
        if shown is None:
            raise ModelError(f"event {impression.event_id}: this is no list that can be read")
        said: Mapping[str, Any] = impression.properties
        names: tuple[str, ...] = ()
        contributions: NDArray[np.float32] | None = None
        note = None
        if shown.features is None:
            note = "no model ranked this list: own repeats per visit, what followed, popularity"
        else:
            try:
                with self._one:
                    columns, forest = self._forest(shown.version)
                    contributions = contributions_of(forest, shown.features)
                names = columns
            except ModelError as error:
                note = f"what each feature added is not known any more: {error}"
        items = [
            ExplainedItem(
                item_id=item,
                channel=_at(said.get("channels"), place),
                score=_at(said.get("scores"), place),
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
            experiment=said.get("experiment"),
            arm=said.get("arm"),
            forced=shown.forced,
            propensity=said.get("propensity"),
            base=None if contributions is None else float(contributions[0, -1]),
            items=items,
            rules={name: value for name, value in said.items() if name not in _TOLD},
            note=note,
        )

    def _forest(self, version: str) -> tuple[tuple[str, ...], xgboost.Booster]:
        found = self._forests.get(version)
        if found is None:
            directory = version_directory(self._models, version)
            found = read_manifest(directory).features, load_trees(directory)
            for old in list(self._forests)[: 1 - _VERSIONS]:
                del self._forests[old]
            self._forests[version] = found
        return found


def contributions_of(forest: xgboost.Booster, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each feature added to the margin of each row, and the margin before any of them.

    These are SHAP values by the tree algorithm of Lundberg et al. ("Consistent Individualized
    Feature Attribution for Tree Ensembles", 2018, arXiv:1802.03888), as XGBoost computes them:
    with the value before any feature, those of a row add up to its margin.

    Args:
        forest: the trees.
        features: shape (n, columns), NaN for missing.

    Returns:
        Shape (n, columns + 1), the last column the value before any feature.

    Raises:
        ModelError: if the forest takes another number of columns.
    """
    import xgboost

    if features.shape[1] != forest.num_features():
        raise ModelError(
            f"the list has {features.shape[1]} features and the forest takes "
            f"{forest.num_features()}"
        )
    matrix = xgboost.DMatrix(features, nthread=1)
    found: NDArray[np.float32] = forest.predict(matrix, pred_contribs=True)
    return found


def _at(values: Any, place: int) -> Any:
    return values[place] if isinstance(values, list) and place < len(values) else None


def _row(
    names: tuple[str, ...], values: NDArray[np.float32] | None, place: int
) -> dict[str, float | None] | None:
    if values is None or not names:
        return None
    row = values[place, : len(names)].tolist()
    return {name: None if it != it else it for name, it in zip(names, row, strict=True)}
