"""Plots of an audit of the published numbers."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from tactful_privacy.audit.audit import AuditReport
from tactful_privacy.audit.pipeline import Pipeline

_DRAWS = 100_000
_RIGHT, _WRONG, _INK = "#00897b", "#c62828", "#37474f"


def write_plots(report: AuditReport, directory: Path) -> list[Path]:
    """Write `epsilon.png` and `noise.png` of an audit, and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False}):
        figures = {"epsilon.png": _epsilon(report), "noise.png": _noise(report)}
        files = []
        for name, figure in figures.items():
            figure.savefig(directory / name, dpi=144)
            files.append(directory / name)
    return files


def _epsilon(report: AuditReport) -> Figure:
    """Plot the epsilon that the attack proved for each pipeline, beside the claim."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    pipelines = [*report.real, *report.planted][::-1]
    proved = [pipeline.proved for pipeline in pipelines]
    colours = [_RIGHT if p.passed else _WRONG for p in pipelines]
    axes.barh([p.name for p in pipelines], proved, color=colours)
    axes.axvline(float(report.epsilon), color=_INK, linestyle="--", linewidth=1)
    axes.set_xlabel("epsilon proved by attack (dashed: claimed); red: a check failed")
    return figure


def _noise(report: AuditReport) -> Figure:
    """Plot the frequency of each noise value, beside its stated probability."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    noise = Pipeline(report.cap, report.epsilon).noise()
    reach = noise.interval("0.999")
    values = np.arange(-reach, reach + 1)
    draws = noise.sample(_DRAWS)
    observed = np.array([(draws == k).mean() for k in values])
    axes.bar(values, observed, color=_RIGHT, label=f"{_DRAWS:,} draws")
    stated = [float(noise.probability(int(k))) for k in values]
    axes.plot(values, stated, color=_INK, linewidth=1, label="stated probability")
    axes.set_yscale("log")
    axes.set_xlabel("noise")
    axes.legend(frameon=False)
    return figure
