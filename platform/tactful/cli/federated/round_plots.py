"""Plot of the rounds of a training run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tactful.schemas.federated import FederatedRound

_Value = Callable[[FederatedRound], float | None]

_PANELS: dict[str, _Value] = {
    "epsilon spent": lambda figures: figures.epsilon,
    "releases": lambda figures: figures.releases,
    "seconds": lambda figures: figures.seconds or None,  # 0 is unknown, after a kill
    "loss, nats": lambda figures: figures.loss,
    "right first answers": lambda figures: figures.top1,
}


def plot_rounds(rounds: Sequence[FederatedRound], path: Path) -> Path:
    """Draw the public figures of rounds, each in a panel; those without a value are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    latest = sorted({figures.number: figures for figures in rounds}.values(), key=_number)
    series = {
        name: [
            (figures.number, found) for figures in latest if (found := value(figures)) is not None
        ]
        for name, value in _PANELS.items()
    }
    series = {name: points for name, points in series.items() if points}
    figure = Figure(figsize=(7, 2 * len(series)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, points) in zip(axes, series.items(), strict=True):
        axis.plot(*zip(*points, strict=True), marker=".")
        axis.set(ylabel=name)
    axes[-1].set(xlabel="round")
    figure.savefig(path, dpi=110)
    return path


def _number(figures: FederatedRound) -> int:
    return figures.number
