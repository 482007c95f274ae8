"""Plots of a training: learning curve, gains, calibration and position bias."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tactful.training.train import Trained


def plot_training(trained: Trained, directory: Path) -> dict[str, Path]:
    """Draw the learning curve, the gain of each feature, the calibration and the position bias.

    Plots whose figures were not estimated are left out.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = {
        "learning_curve": _draw(directory / "learning_curve.png", (7, 4), _curve, trained),
        "gain": _draw(directory / "gain.png", (7, 7), _gain, trained),
    }
    if trained.manifest.calibration is not None:
        path = directory / "calibration.png"
        paths["calibration"] = _draw(path, (5, 5), _calibration, trained)
    if len(trained.manifest.looked) > 1:
        paths["places"] = _draw(directory / "places.png", (7, 4), _places, trained)
    return paths


def _draw(
    path: Path, size: tuple[float, float], draw: Callable[[Any, Trained], None], trained: Trained
) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.subplots(), trained)
    figure.savefig(path, dpi=110)
    return path


def _curve(axis: Any, trained: Trained) -> None:
    axis.plot(range(1, len(trained.curve) + 1), trained.curve)
    axis.axvline(trained.trees, linestyle=":", color="grey")
    axis.set(xlabel="trees", ylabel="NDCG@20 on later lists", title="Learning curve")


def _gain(axis: Any, trained: Trained) -> None:
    gains = trained.manifest.gains
    names = list(gains)[::-1]
    axis.barh(names, [gains[name] for name in names])
    axis.set(xlabel="total gain", title="Gain of each feature")


def _calibration(axis: Any, trained: Trained) -> None:
    calibration = trained.manifest.calibration
    assert calibration is not None
    predicted, observed = calibration.predicted, calibration.observed
    highest = max(*predicted, *observed, 1e-9)
    axis.plot([0, highest], [0, highest], linestyle=":", color="grey")
    axis.plot(predicted, observed, marker="o")
    title = f"Calibration, {calibration.of}"
    axis.set(xlabel="predicted share", ylabel="share that was taken", title=title)


def _places(axis: Any, trained: Trained) -> None:
    looked = trained.manifest.looked
    axis.plot(range(1, len(looked) + 1), looked, marker="o")
    axis.set(xlabel="place", ylabel="looked at, relative to the first", title="Places", ylim=(0, 1))
