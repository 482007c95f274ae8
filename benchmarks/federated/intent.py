"""What the intent of a device brings to recommendations: the same questions with and without it.

The intent model is trained across devices on what was bought before the first question. A step of a
visit is stored as a visit of its own, since the order inside a visit counts here. A device fits the
model to its person's steps before the first question, and sends with each request what
`tactful federated intent` prints: some categories with weights in tenths, computed from its
person's own lines. The ranker is trained as `tactful train` does it, without any intent in the log.

Measured twice with the same ranker: where a request does not tell who asks, so that the lines stay
on the device and the intent is all that is known of them; and where the server knows the lines as
well, so that an intent only adds what the model makes of them.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from benchmarks.federated.families import EMBEDDING, HIDDEN, Families
from benchmarks.figures import Figure
from benchmarks.quality.dataset import who
from benchmarks.quality.served import answered
from tactful.demo.datasets import Ask, Replay, online_retail
from tactful.schemas.recommendations import RecommendRequest
from tactful.training.evaluation import Scorecard
from tactful.training.options import TrainingOptions
from tactful_federated.device.event_store import EventStore
from tactful_federated.device.intent import DeviceIntent
from tactful_federated.device.model_package import ModelSlot
from tactful_federated.device.personalise import personalise
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Vector

FIGURES = [
    (f"intent_{what}{whose}", "1")
    for whose in ("", "_known_person")
    for what in ("hr20_gain", "mrr20_ratio")
]
"""Names and units."""

QUESTIONS = 4_000
"""Questions asked, spread evenly over those of the data set."""

_KEPT_FROM = 50


def gain(
    path: Path, quick: bool, train: Callable[[Families], Vector], questions: int = QUESTIONS
) -> list[Figure]:
    """Hit rate at 20 with intents less that without, and reciprocal rank with by that without.

    Args:
        path: Of the data.
        quick: Fewer people.
        train: The intent model's weights, from what devices hold.
        questions: Number of questions asked.
    """
    replay = online_retail(path, quick=quick)
    replay = replace(replay, asks=replay.asks[:: max(len(replay.asks) // questions, 1)])
    vocabulary = Vocabulary.from_catalogue(_kept(replay))
    devices = _Devices(_steps(replay), vocabulary, replay.cut)
    devices.load(train(Families(devices.held, {}, vocabulary.size)))
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as scratch:
        ways = [_asks(devices, knows, sends) for knows in (False, True) for sends in (False, True)]
        lists = answered(replay, Path(scratch), TrainingOptions(), ways)
    cards = [_card(replay, found) for found in lists]
    told = (
        f"the likeliest of {len(vocabulary.categories)} categories, as `tactful federated intent`"
        " sends them, by a model trained across devices without noise and fitted to each person"
    )
    return [
        *_beside(cards[:2], "", f"requests do not tell who asks; {told}"),
        *_beside(cards[2:], "_known_person", f"the server knows the lines; {told}"),
    ]


def _asks(devices: _Devices, knows: bool, sends: bool) -> Callable[[Ask], RecommendRequest]:
    def request(ask: Ask) -> RecommendRequest:
        return RecommendRequest(
            **(who(ask.person) if knows else {}),
            session_id=ask.session_id if knows else None,
            intent=devices.intent_at(ask.person, ask.before) if sends else {},
        )

    return request


def _card(replay: Replay, lists: Sequence[tuple[str, ...]]) -> Scorecard:
    card = Scorecard()
    for ask, items in zip(replay.asks, lists, strict=True):
        card.add(ask.person, items, ask.taken)
    return card


def _beside(cards: Sequence[Scorecard], whose: str, told: str) -> list[Figure]:
    (plain, ours), figures = cards, []
    for name, measure, found in (
        ("hr20_gain", "hr20", ours.lead(plain)),
        ("mrr20_ratio", "mrr20", ours.ratio(plain, "mrr20")),
    ):
        note = (
            f"{ours.mean(measure):.4f} with, {plain.mean(measure):.4f} without; {len(ours):,}"
            f" questions, 95 % interval over people, paired; {told}"
        )
        named = f"intent_{name}{whose}"
        figures.append(Figure(named, found.value, "1", found.low, found.high, len(ours), note))
    return figures


def _kept(replay: Replay) -> list[str]:
    """Public catalogue: categories of at least so many lines before the first question."""
    counts = Counter(
        _family(item)
        for item, kind in zip(
            replay.item[: replay.cut], replay.kind[: replay.cut].tolist(), strict=True
        )
        if item is not None and kind == 0
    )
    return [name for name, count in counts.items() if count >= _KEPT_FROM]


def _family(item: str) -> str:
    return item[:3]


@dataclass(frozen=True)
class _Steps:
    """What a person put into carts: the number of each event, and its category."""

    numbers: list[int] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)

    def before(self, number: int) -> list[list[str]]:
        """Return the visits that a device has stored just before an event."""
        return [[name] for name in self.categories[: bisect_left(self.numbers, number)]]


def _steps(replay: Replay) -> dict[str, _Steps]:
    found: dict[str, _Steps] = {}
    for number, (item, kind) in enumerate(zip(replay.item, replay.kind.tolist(), strict=True)):
        person = replay.person[number]
        if item is None or kind != 0 or person.startswith("guest-"):
            continue
        steps = found.setdefault(person, _Steps())
        steps.numbers.append(number)
        steps.categories.append(_family(item))
    return found


@dataclass
class _Stored:
    """Visits as an `EventStore` has them, in memory."""

    stored: list[list[str]]
    consent: bool = True

    def visits(self) -> list[list[str]]:
        return self.stored


@dataclass(frozen=True)
class _Installed:
    """A model as a `ModelSlot` has it, in memory."""

    model: IntentPredictor
    version: int = 1

    def predictor(self) -> IntentPredictor:
        return self.model


class _Devices:
    """Each person's device, asked for what it would send."""

    def __init__(self, steps: Mapping[str, _Steps], vocabulary: Vocabulary, cut: int) -> None:
        self._steps, self._vocabulary, self._cut = steps, vocabulary, cut
        self._models: dict[str, IntentPredictor] = {}
        sequences = {
            int(person): vocabulary.sequence(its.before(cut)) for person, its in steps.items()
        }
        self.held = {person: tokens for person, tokens in sequences.items() if len(tokens)}

    def load(self, weights: Vector) -> None:
        """Give all of them the model."""
        self._shared = IntentPredictor(
            weights, self._vocabulary.size, embedding=EMBEDDING, hidden=HIDDEN
        )

    def intent_at(self, person: str, number: int) -> dict[str, float]:
        """What is sent just before an event; nothing by whom nothing is known."""
        if person not in self._steps:
            return {}
        events = _Stored(self._steps[person].before(number))
        device = DeviceIntent(
            Path(),
            cast(EventStore, events),
            cast(ModelSlot, _Installed(self._own(person))),
            self._vocabulary,
            part=None,  # fitted to the person before, once
        )
        return device.coarse() if events.stored else {}

    def _own(self, person: str) -> IntentPredictor:
        if person not in self._models:
            visits = self._steps[person].before(self._cut)
            self._models[person] = personalise(self._shared, visits, self._vocabulary).predictor
        return self._models[person]
