"""How good the served lists are, beside the recommenders that a team would try otherwise.

Everybody answers the same questions from the same past. A peer is tried with several settings on
questions from before the cut, and answers with the one that was best there. Intervals come from
resampling people; those of a ratio resample the people of both together.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, main
from benchmarks.progress import progress_bar
from benchmarks.quality import peers
from benchmarks.quality.cold import COLD_FIGURES, cold_users
from benchmarks.quality.cold_items import COLD_ITEM_FIGURES, cold_items
from benchmarks.quality.dataset import read_set
from benchmarks.quality.floors import VARIANTS, Options, measure_sets
from benchmarks.quality.generated import GENERATED
from benchmarks.quality.lifecycle import (
    GROCERY_RETURN_FIGURES,
    RETURN_FIGURES,
    measure_grocery_returns,
    measure_returns,
)
from benchmarks.quality.peers import Lists, Peer
from benchmarks.quality.questions import Trial, earlier_trial, final_trial
from benchmarks.quality.served import served_lists
from benchmarks.quality.sources import SOURCES
from benchmarks.shared import retail_path
from tactful.demo.datasets import Replay, completejourney, online_retail
from tactful.training.evaluation import Scorecard
from tactful.training.options import TrainingOptions

_ROOT = Path(__file__).resolve().parents[2]
_IMPLICIT = "implicit>=0.7.2,<0.8"
_QUICK_HOUSEHOLDS = 220
_LIFECYCLE = "lifecycle"


@dataclass(frozen=True)
class Part:
    """Some of the figures.

    Attributes:
        names: what it is to measure, by name with the unit; all are in the record, come what may.
        measure: measures, quick or not.
    """

    names: Mapping[str, str]
    measure: Callable[[bool], Sequence[Figure]]


def run(quick: bool, parts: Sequence[Part] | None = None) -> list[Figure]:
    """Measure all parts, or some. Quick asks fewer questions about fewer people."""
    figures: list[Figure] = []
    for part in PARTS if parts is None else parts:
        try:
            figures += part.measure(quick)
            reason = "no benchmark measures it yet"
        except Exception as error:  # one part that cannot be measured must not cost the others
            traceback.print_exc()
            reason = f"could not be measured: {type(error).__name__}: {error}"[:400]
        measured = {figure.name for figure in figures}
        figures += [
            Figure(name, None, unit, note=reason)
            for name, unit in part.names.items()
            if name not in measured
        ]
    return figures


def _online_retail(quick: bool) -> list[Figure]:
    """The next line of an invoice: every peer that is known to do well on such questions."""
    replay = online_retail(retail_path(), quick=quick)
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
        contest = Contest("online_retail", replay, ("hr20", "mrr20"), Path(name))
        field = [peers.POPULARITY, peers.CO_VISITATION, peers.V_SKNN, peers.ITEM_KNN, peers.ease()]
        contest.ask(field)
        contest.ask_if_there(
            lambda: peers.implicit_peers(_peers_python(), Path(name)), "als", "bpr"
        )
        return contest.figures()


def _completejourney(quick: bool) -> list[Figure]:
    """The next basket of a household, before anything of it is known."""
    replay = completejourney(households=_QUICK_HOUSEHOLDS if quick else None)
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
        contest = Contest("completejourney", replay, ("recall20",), Path(name))
        contest.ask([peers.POPULARITY, peers.OWN_FREQUENCY, peers.OWN_FADED, peers.CO_VISITATION])
        return contest.figures()


class Contest:
    """The served lists and those of the peers, on the questions of one replay."""

    def __init__(self, name: str, replay: Replay, measures: Sequence[str], scratch: Path) -> None:
        """Make the served lists.

        Args:
            name: begins the names of the figures.
            replay: the questions.
            measures: figures of a `Scorecard` to compare by.
            scratch: an empty folder.
        """
        self._name, self._replay, self._measures = name, replay, measures
        self._earlier, self._final = earlier_trial(replay), final_trial(replay)
        self._cards: dict[str, dict[str, Scorecard]] = {measure: {} for measure in measures}
        self._notes: dict[tuple[str, str], str] = {}
        self._missing: dict[str, str] = {}
        with progress_bar(f"{name}: served") as progress:
            shown = served_lists(replay, scratch / "served", TrainingOptions(), progress=progress)
        self._served = Scorecard()
        for ask, items in zip(replay.asks, shown, strict=True):
            self._served.add(ask.person, items, ask.taken)

    def ask(self, field: Sequence[Peer]) -> None:
        """Let peers choose their settings and answer."""
        for peer in field:
            with progress_bar(f"{self._name}: {peer.name}") as progress:
                self._ask(peer, progress)

    def ask_if_there(self, field: Callable[[], Sequence[Peer]], *names: str) -> None:
        """The same for peers that not every machine can have."""
        try:
            self.ask(field())
        except (OSError, subprocess.SubprocessError) as error:
            self._missing.update(dict.fromkeys(names, f"{type(error).__name__}: {error}"[:300]))

    def _ask(self, peer: Peer, progress: Callable[[int, int], None]) -> None:
        tried = []
        for number, settings in enumerate(peer.settings):
            if len(peer.settings) > 1:
                card = _card(self._earlier, peer.lists(self._earlier, **settings))
                tried.append({name: card.mean(name) for name in self._measures})
            progress(number + 1, len(peer.settings))
        answered: dict[int, Scorecard] = {}
        for measure in self._measures:
            best = max(range(len(tried)), key=lambda n: tried[n][measure]) if tried else 0
            if best not in answered:
                settings = peer.settings[best]
                answered[best] = _card(self._final, peer.lists(self._final, **settings))
            self._cards[measure][peer.name] = answered[best]
            chosen = ", ".join(f"{key} {value}" for key, value in peer.settings[best].items())
            self._notes[measure, peer.name] = (
                f"{chosen}; best of {len(tried)} settings on {len(self._earlier.questions):,} "
                "questions from before the cut"
                if tried
                else "no settings"
            )

    def figures(self) -> list[Figure]:
        """The served lists, the best peer, our lead over it, and every peer."""
        found = []
        for measure in self._measures:
            cards = self._cards[measure]
            best = max(cards, key=lambda name: cards[name].mean(measure))
            what = f"{self._name}_{measure}"
            found += [
                self._figure(what, self._served, measure, "served lists, trained as shipped"),
                self._figure(
                    f"{self._name}_best_baseline_{measure}", cards[best], measure, f"it is {best}"
                ),
                self._lead(f"{what}_vs_best_baseline", cards[best], best, measure),
            ]
            for name, card in cards.items():
                note = self._notes[measure, name]
                found.append(self._figure(f"{what}_{name}", card, measure, note))
            found += [
                Figure(f"{what}_{name}", None, "1", note=reason)
                for name, reason in self._missing.items()
            ]
        return found

    def _lead(self, name: str, other: Scorecard, who: str, measure: str) -> Figure:
        if not other.mean(measure):
            return Figure(name, None, "1", note=f"{who} scored nothing, so there is no ratio")
        found = self._served.ratio(other, measure)
        note = f"served by {who}; 95 % interval over people, paired"
        return Figure(name, found.value, "1", found.low, found.high, len(other), note)

    def _figure(self, name: str, card: Scorecard, measure: str, note: str) -> Figure:
        estimate = card.estimate(measure)
        return Figure(name, estimate.value, "1", estimate.low, estimate.high, len(card), note)


def _card(trial: Trial, lists: Lists) -> Scorecard:
    card = Scorecard()
    for question, row in zip(trial.questions, lists.tolist(), strict=True):
        shown = [str(item) for item in row if item >= 0]
        card.add(question.person, shown, {str(item) for item in question.taken})
    return card


def _peers_python() -> Path:
    """The Python that has `implicit`, in an environment of its own."""
    folder = _ROOT / ".venv-peers"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", _IMPLICIT], check=True)
    return python


_RETURNS = (
    Part(RETURN_FIGURES, measure_returns),
    Part(GROCERY_RETURN_FIGURES, measure_grocery_returns),
)
PARTS: tuple[Part, ...] = (
    Part(
        {
            "online_retail_hr20": "1",
            "online_retail_mrr20": "1",
            "online_retail_best_baseline_hr20": "1",
            "online_retail_best_baseline_mrr20": "1",
        },
        _online_retail,
    ),
    Part(
        {"completejourney_recall20": "1", "completejourney_best_baseline_recall20": "1"},
        _completejourney,
    ),
    Part(COLD_FIGURES, cold_users),
    Part(COLD_ITEM_FIGURES, cold_items),
    *_RETURNS,
)
"""Parts of the benchmark, as they are measured."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose what is measured."""
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument(
        "--set", type=Path, metavar="FILE", help="measure the events of an NDJSON file alone"
    )
    alone.add_argument(
        "--only",
        choices=[*SOURCES, *GENERATED, _LIFECYCLE],
        metavar="SET",
        help=f"one set alone: {', '.join(SOURCES)}; or one that only this option generates: "
        f"{', '.join(GENERATED)}; or {_LIFECYCLE}, the predictions of returns",
    )
    parser.add_argument(
        "--variant",
        action="append",
        choices=VARIANTS,
        metavar="VARIANT",
        help=f"one variant alone; may be repeated: {', '.join(VARIANTS)}",
    )
    parser.add_argument(
        "--in-process", action="store_true", help="without HTTP, to look while developing"
    )


def measure(options: argparse.Namespace) -> list[Figure]:
    """Measure what the options choose."""
    # A run that is told to stop ends its servers on the way.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if options.only == _LIFECYCLE:
        return run(options.quick, _RETURNS)
    chosen = Options(
        quick=options.quick,
        only=options.only,
        variants=options.variant,
        file=None if options.set is None else read_set(options.set),
        in_process=options.in_process,
    )
    alone = options.set or options.only or options.variant or options.in_process
    return measure_sets(chosen) + ([] if alone else run(options.quick))


if __name__ == "__main__":
    main("quality", measure, add_options=add_options)
