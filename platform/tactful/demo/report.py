"""The report of the demo: a JSON file for the dashboard, and a picture.

The file is replaced atomically, so a reader never sees half of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from tactful.training.evaluation import Estimate, Quality
from tactful_privacy.durable_files import replace_file


class Report:
    """A report that grows while the demo runs."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,  # seconds since the epoch
        **opening: Any,
    ) -> None:
        """Begin the report."""
        self._path = path
        self._clock = clock
        self._written = 0.0
        self._stage_began = clock()
        self.content: dict[str, Any] = {
            "name": path.stem,
            "started_at": int(clock() * 1000),
            "finished_at": None,
            "stage": "starting",
            "progress": 0.0,
            "timings_s": {},
            **opening,
        }
        self.write()

    def stage(self, name: str) -> None:
        """Enter a stage; keep the time spent in the one before."""
        now = self._clock()
        self.content["timings_s"][self.content["stage"]] = round(now - self._stage_began, 2)
        self._stage_began = now
        self.content["stage"] = name
        self.content["progress"] = 0.0
        self.write()

    def progress(self, share: float) -> None:
        """Set the progress of the stage, 0 to 1; written at most once a second."""
        self.content["progress"] = round(min(max(share, 0.0), 1.0), 4)
        if self._clock() - self._written >= 1.0:
            self.write()

    def put(self, **sections: Any) -> None:
        """Add or replace sections and write."""
        self.content.update(sections)
        self.write()

    def finish(self) -> None:
        """Close the report."""
        self.stage("finished")
        self.content["progress"] = 1.0
        self.content["finished_at"] = int(self._clock() * 1000)
        self.write()

    def write(self) -> None:
        """Write the file."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._path, msgspec.json.format(msgspec.json.encode(self.content), indent=1))
        self._written = self._clock()


def quality_section(name: str, label: str, quality: Quality) -> dict[str, Any]:
    """Return a row of the quality table."""
    row: dict[str, Any] = {"name": name, "label": label}
    for measure in MEASURES:
        estimate = asdict(getattr(quality, measure))
        row[measure] = {end: None if it != it else round(it, 5) for end, it in estimate.items()}
    return row


MEASURES: Mapping[str, str] = {
    "hr20": "HR@20",
    "ndcg20": "NDCG@20",
    "mrr20": "MRR@20",
    "coverage20": "Coverage@20",
}
"""Figures of the quality table and their labels."""


def verdict(served: float, rate: float, label: str, lead: Estimate) -> str:
    """Compare the served ranking with the best baseline in a sentence.

    Args:
        served: hit rate of the served ranking.
        rate: hit rate of the best baseline.
        label: name of this baseline.
        lead: difference of both, paired over users, with its interval.
    """
    if lead.low > 0:
        beginning = "The served ranking beats every baseline on HR@20"
    elif lead.high < 0:
        beginning = "The served ranking does NOT beat every baseline on HR@20"
    else:
        beginning = "The comparison with the best baseline on HR@20 is inconclusive"
    return (
        f"{beginning}: {served:.3f} against {rate:.3f} of {label}, the best of them. "
        f"The difference is {lead.value:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}], "
        "paired over people."
    )


def quality_table(rows: list[dict[str, Any]]) -> str:
    """Format the quality table as text, best hit rate first."""
    width = max(len(row["label"]) for row in rows)
    lines = [f"{'':{width}}  " + "  ".join(f"{title:^22}" for title in MEASURES.values())]
    for row in sorted(rows, key=lambda row: -row["hr20"]["value"]):
        cells = (
            f"{row[m]['value']:.3f} [{row[m]['low']:.3f}, {row[m]['high']:.3f}]" for m in MEASURES
        )
        lines.append(f"{row['label']:{width}}  " + "  ".join(f"{cell:^22}" for cell in cells))
    return "\n".join(lines)


def plot_quality(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw the table: a dot and its 95 % interval for every recommender and figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ordered = sorted(rows, key=lambda row: row["hr20"]["value"])
    figure = Figure(figsize=(11, 1.2 + 0.5 * len(ordered)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    for axis, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        for place, row in enumerate(ordered):
            found = row[measure]
            colour = "#0072B2" if row["name"] == "served" else "#7F7F7F"
            axis.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2)
            axis.plot(found["value"], place, "o", color=colour)
        axis.set_title(label, fontsize=10)
        axis.set_xlim(left=0)
        axis.grid(axis="x", alpha=0.3)
        axis.set_yticks(range(len(ordered)), [row["label"] for row in ordered])
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
