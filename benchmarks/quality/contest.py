"""Peers on the questions of a set: chosen before the cut, asked after it, kept in a file."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.progress import Progress
from benchmarks.quality.item_peers import CO_VISITATION, ITEM_ITEM, MARKOV, SEQUENTIAL_RULES
from benchmarks.quality.peers import POPULARITY, V_SKNN, Lists, Peer
from benchmarks.quality.protocol import Exam
from benchmarks.quality.questions import Trial
from benchmarks.quality.session_peers import S_KNN, STAN, VSTAN
from tactful.training.evaluation import Scorecard

MEASURES = ("hr20", "mrr20")

FIELD: tuple[Peer, ...] = (
    POPULARITY,
    MARKOV,
    SEQUENTIAL_RULES,
    CO_VISITATION,
    ITEM_ITEM,
    S_KNN,
    V_SKNN,
    STAN,
    VSTAN,
)
"""The peers to beat on every set."""

_REPEATS = "repeats"


class PeerAnswers:
    """Recommendations of the peers for one exam, each chosen for each of `MEASURES`."""

    def __init__(self, exam: Exam) -> None:
        """Begin without answers."""
        self._exam = exam
        self.lists: dict[tuple[str, str], Lists] = {}
        self.settings: dict[tuple[str, str], dict[str, Any]] = {}

    @property
    def names(self) -> list[str]:
        """Names of the peers that answered."""
        return list(dict.fromkeys(peer for peer, _ in self.lists))

    def add(self, peer: Peer) -> None:
        """Let a peer choose its settings on the earlier questions, for each measure, and answer."""
        exam = self._exam
        again = any(it.taken & {*it.prefix} for it in exam.earlier.questions)
        tried: list[tuple[Mapping[str, Any], bool]] = [(each, False) for each in peer.settings]
        cards = [Scorecard()]
        if len(tried) > 1 or again:
            cards = [self._tried(peer, settings, repeats) for settings, repeats in tried]
        if again:
            # Whether an item of the visit may come again is chosen last, for the best settings.
            for measure in MEASURES:
                settings, _ = tried[_best(cards[: len(peer.settings)], measure)]
                tried.append((settings, True))
                cards.append(self._tried(peer, settings, True))
        answered: dict[int, Lists] = {}
        for measure in MEASURES:
            best = _best(cards, measure)
            settings, repeats = tried[best]
            if best not in answered:
                answered[best] = peer.lists(replace(exam.final, repeats=repeats), **settings)
            self.lists[peer.name, measure] = answered[best]
            self.settings[peer.name, measure] = {**settings, _REPEATS: repeats}

    def add_once(self, peer: Peer) -> None:
        """Let a peer answer without choosing anything."""
        lists = peer.lists(self._exam.final)
        for measure in MEASURES:
            self.lists[peer.name, measure] = lists
            self.settings[peer.name, measure] = {_REPEATS: False}

    def _tried(self, peer: Peer, settings: Mapping[str, Any], repeats: bool) -> Scorecard:
        trial = replace(self._exam.earlier, repeats=repeats)
        if not trial.questions:
            return Scorecard()
        return card_of(trial, peer.lists(trial, **settings))

    def card(self, peer: str, measure: str, rows: Sequence[int] | None = None) -> Scorecard:
        """Score a peer that was chosen for a measure, on some of the questions or all."""
        return card_of(self._exam.final, self.lists[peer, measure], rows)

    def note(self, peer: str, measure: str) -> str:
        """Return the settings that a peer was chosen with, in words."""
        settings = self.settings[peer, measure].items()
        return ", ".join(f"{key} {value}" for key, value in settings)

    def new_only(self, peer: Peer, measure: str) -> Lists:
        """Let a peer answer once more, with nothing that the person had before."""
        settings = {k: v for k, v in self.settings[peer.name, measure].items() if k != _REPEATS}
        return peer.lists(replace(self._exam.final, new_only=True), **settings)

    def best(self, measure: str) -> str:
        """Name the best peer."""
        return max(self.names, key=lambda name: self.card(name, measure).mean(measure))

    def save(self, peer: str, path: Path) -> None:
        """Write the answers of one peer."""
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = json.dumps([self.settings[peer, measure] for measure in MEASURES])
        arrays = {measure: self.lists[peer, measure] for measure in MEASURES}
        part = path.with_suffix(f".{os.getpid()}")  # another case may read or write it now
        with part.open("wb") as file:
            np.savez_compressed(file, settings=np.array(settings), **arrays)  # type: ignore[arg-type]
        part.replace(path)

    def load(self, peer: str, path: Path) -> None:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            rows = json.loads(str(arrays["settings"]))
            for measure, settings in zip(MEASURES, rows, strict=True):
                self.settings[peer, measure] = settings
                self.lists[peer, measure] = arrays[measure]


def answers(
    exam: Exam, folder: Path, progress: Progress, *, models: Sequence[Peer] = ()
) -> PeerAnswers:
    """Return the peers' answers; those of an equal exam and equal code are taken from `folder`.

    Args:
        exam: the questions.
        folder: of the files.
        progress: called with the number of peers so far, and of all.
        models: peers that take minutes: they are asked once, and nothing of them is chosen.
    """
    result = PeerAnswers(exam)
    digests = {timed: _digest(exam, timed) for timed in (False, True)}
    for number, peer in enumerate([*FIELD, *models]):
        path = folder / f"{peer.name}-{digests[peer.uses_time]}.npz"
        if path.exists():
            result.load(peer.name, path)
        else:
            if peer in models:
                result.add_once(peer)
            else:
                result.add(peer)
            result.save(peer.name, path)
        progress(number + 1, len(FIELD) + len(models))
    return result


def card_of(trial: Trial, lists: Lists, rows: Sequence[int] | None = None) -> Scorecard:
    """Score lists of item numbers; `rows` are the numbers of the questions that count."""
    card = Scorecard()
    for row in range(len(trial.questions)) if rows is None else rows:
        question = trial.questions[row]
        shown = [str(item) for item in lists[row].tolist() if item >= 0]
        card.add(question.person, shown, {str(item) for item in question.taken})
    return card


def _best(cards: Sequence[Scorecard], measure: str) -> int:
    return max(range(len(cards)), key=lambda n: cards[n].mean(measure) if len(cards[n]) else -1.0)


def _digest(exam: Exam, timed: bool) -> str:
    """Return a digest of the code and of what a peer may look at, with the times or without."""
    parts = hashlib.sha256()
    for trial in (exam.earlier, exam.final):
        questions = [(q.prefix, q.history, sorted(q.taken), q.at * timed) for q in trial.questions]
        ended = trial.ended if timed else ()
        parts.update(pickle.dumps((trial.items, trial.visits, questions, ended, trial.owners)))
    for name in ("contest", "item_peers", "peers", "sequence_models", "session_peers"):
        parts.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return parts.hexdigest()[:20]
