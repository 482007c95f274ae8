"""What the intent of a device brings to recommendations: the same questions with and without it.

The intent model is trained across devices on what was bought before the lists that the ranker
learns from, so that it foresees those as it foresees the questions. With each request a device
sends the likeliest categories of the next line, computed from its person's own lines.

Measured twice: where a request does not tell who asks, so that the lines stay on the device and the
intent is all that is known of them; and where the server knows the lines as well, so that an intent
only adds what the model makes of them.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.federated.families import Families, new_model
from benchmarks.figures import Figure
from benchmarks.quality.served import served_lists
from tactful.demo.datasets import DAY, Replay, online_retail
from tactful.training.evaluation import Scorecard
from tactful.training.options import TrainingOptions
from tactful_federated.model.tokens import BOUNDARY, FIRST_CATEGORY, OTHER
from tactful_federated.model.vectors import Vector

FIGURES = [
    (f"intent_{what}{whose}", "1")
    for whose in ("", "_known_person")
    for what in ("hr20_gain", "mrr20_ratio")
]
"""Names and units."""

_KEPT_FROM = 50
_SENT = 10


@dataclass(frozen=True)
class _Lines:
    """What a person bought: a token for each line and visit, and the events that they came with."""

    numbers: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


def gain(path: Path, quick: bool, train: Callable[[Families], Vector]) -> list[Figure]:
    """Hit rate at 20 with intents less that without, and reciprocal rank with by that without.

    Args:
        path: Of the data.
        quick: Fewer people and questions.
        train: The intent model's weights, from what devices hold.
    """
    replay, options = online_retail(path, quick=quick), TrainingOptions()
    since = int(replay.timestamp[replay.cut]) - int(options.label_days * DAY)
    begin = int(np.searchsorted(replay.timestamp, since))
    families = _kept(replay, begin)
    devices = _Devices(_lines(replay, families), families)
    devices.load(train(Families(devices.before(begin), {}, len(families) + FIRST_CATEGORY)))
    told = (
        f"the {_SENT} likeliest of {len(families)} categories sent, by a model trained across"
        " devices without noise"
    )
    return [
        *_beside(replay, options, devices, "", f"requests do not tell who asks; {told}"),
        *_beside(replay, options, devices, "_known_person", f"the server knows the lines; {told}"),
    ]


def _beside(
    replay: Replay, options: TrainingOptions, devices: _Devices, whose: str, told: str
) -> list[Figure]:
    cards = {}
    for who, intent_at in (("with", devices.intent_at), ("without", None)):
        with tempfile.TemporaryDirectory(prefix="tactful-bench-") as scratch:
            lists = served_lists(
                replay, Path(scratch), options, intent_at=intent_at, tells_who=whose != ""
            )
        cards[who] = Scorecard()
        for ask, items in zip(replay.asks, lists, strict=True):
            cards[who].add(ask.person, items, ask.taken)
    ours, plain, asked = cards["with"], cards["without"], len(replay.asks)
    figures = []
    for name, measure, found in (
        ("hr20_gain", "hr20", ours.lead(plain)),
        ("mrr20_ratio", "mrr20", ours.ratio(plain, "mrr20")),
    ):
        note = (
            f"{ours.mean(measure):.4f} with, {plain.mean(measure):.4f} without; {asked:,} questions"
            f", 95 % interval over people, paired; {told}"
        )
        named = f"intent_{name}{whose}"
        figures.append(Figure(named, found.value, "1", found.low, found.high, asked, note))
    return figures


def _kept(replay: Replay, end: int) -> list[str]:
    """Public catalogue: categories of at least so many lines before an event."""
    counts = Counter(
        _family(item)
        for item, kind in zip(replay.item[:end], replay.kind[:end].tolist(), strict=True)
        if item is not None and kind == 0
    )
    return sorted(name for name, count in counts.items() if count >= _KEPT_FROM)


def _family(item: str) -> str:
    return item[:3]


def _lines(replay: Replay, families: list[str]) -> dict[str, _Lines]:
    tokens = {name: token for token, name in enumerate(families, FIRST_CATEGORY)}
    found: dict[str, _Lines] = {}
    visits: dict[str, str] = {}
    for number, (item, kind) in enumerate(zip(replay.item, replay.kind.tolist(), strict=True)):
        person, visit = replay.person[number], replay.session[number]
        if item is None or kind != 0 or person.startswith("guest-"):
            continue
        lines = found.setdefault(person, _Lines())
        opened = [BOUNDARY] if visits.get(person) != visit else []
        visits[person] = visit
        for token in (*opened, tokens.get(_family(item), OTHER)):
            lines.numbers.append(number)
            lines.tokens.append(token)
    return found


class _Devices:
    """Each person's device, asked for what it would send."""

    def __init__(self, lines: Mapping[str, _Lines], families: list[str]) -> None:
        self._lines, self._families = lines, families
        self._likely: dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
        self._model = new_model(len(families) + FIRST_CATEGORY)

    def before(self, end: int) -> dict[int, NDArray[np.int64]]:
        """What each holds before an event."""
        cut = {who: lines.tokens[: self._seen(who, end)] for who, lines in self._lines.items()}
        return {int(who): np.array(tokens) for who, tokens in cut.items() if tokens}

    def load(self, weights: Vector) -> None:
        """Give all of them the model."""
        self._model.load_vector(weights)

    def intent_at(self, person: str, number: int) -> Mapping[str, float]:
        """What is sent just before an event; nothing by whom nothing is known."""
        seen = self._seen(person, number)
        if not seen:
            return {}
        categories, weights = self._all(person)
        sent = zip(categories[seen - 1].tolist(), weights[seen - 1].tolist(), strict=True)
        return {self._families[at]: weight for at, weight in sent if weight > 0}

    def _seen(self, person: str, number: int) -> int:
        return bisect_left(self._lines[person].numbers, number) if person in self._lines else 0

    def _all(self, person: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The likeliest after each line; a later one does not change what came of an earlier."""
        if person not in self._likely:
            inputs = torch.tensor([self._lines[person].tokens])
            with torch.no_grad():
                logits = self._model(inputs, torch.ones_like(inputs, dtype=torch.bool))
                found = torch.softmax(logits, dim=1).topk(_SENT, dim=1)
            self._likely[person] = found.indices.numpy(), found.values.numpy().round(2)
        return self._likely[person]
