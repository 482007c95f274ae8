"""Scores of a ranking model in MLflow, for `mlflow models serve` and `mlflow.pyfunc.load_model`.

MLflow copies this file into each model that is registered, so it must not import this package. The
scores are those of the server: the margins of the trees and the logarithm of the column they start
from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost

_LEAST_SHARE = 1e-4  # as in `tactful.ranking.model`


class Ranker:
    """Scores rows of features."""

    def __init__(self, directory: Path) -> None:
        """Load the forest and the manifest of a model directory."""
        manifest = json.loads((directory / "manifest.json").read_text("utf-8"))
        self._names: list[str] = manifest["features"]
        self._start: str = manifest.get("start", "")
        self._forest = xgboost.Booster({"nthread": 1})
        self._forest.load_model(directory / "model.ubj")

    def predict(self, rows: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Return a margin for each row, larger is better; columns of any float type, by name."""
        features = rows[self._names].to_numpy(np.float32)
        margins = self._forest.inplace_predict(features, predict_type="margin")
        if not self._start:
            return margins
        start = rows[self._start].to_numpy(np.float32).astype(np.float64)
        return margins + np.log(np.fmax(start, 0.0) + _LEAST_SHARE).astype(np.float32)


def _load_pyfunc(path: str) -> Ranker:
    """Load a model; MLflow calls it by this name."""
    return Ranker(Path(path))
