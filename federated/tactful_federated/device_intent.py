"""What a device believes its person is looking for, and how little of it is told.

The model, made the person's own, answers on the device. A request for recommendations carries at
most some categories with weights in tenths, or one category by randomised response, so that nobody
can be sure of it. What is expected of the person some steps ahead fires triggers on the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_federated.checkpoint import write_whole
from tactful_federated.errors import require
from tactful_federated.event_store import EventStore
from tactful_federated.inference import IntentPredictor, mean_loss
from tactful_federated.model_package import ModelSlot
from tactful_federated.personal import MOST_VISITS, Part, Personal, personalise
from tactful_federated.tokens import BOUNDARY, FIRST_CATEGORY, Vocabulary, windows
from tactful_privacy import RandomizedResponse

_DAY_S = 86_400
_CONTINUATIONS = 1_000

FIRED: Final = "fired"
"""File that names the triggers that have fired; it tells of the person, and goes with consent."""

WORSE: Final = 0.1
"""Nats a question by which a new model may do worse on a device and still be taken."""


@dataclass(frozen=True)
class Trigger:
    """Something to do when a person is about to do something.

    Attributes:
        name: Of the trigger, one of a kind on a device.
        categories: Any of them is waited for.
        steps: How many steps ahead it may be, 1 or more.
        threshold: It fires when the probability comes to this, in (0, 1].
        rearm: And can fire again after the probability was below this, at most the threshold.
    """

    name: str
    categories: tuple[str, ...]
    steps: int = 3
    threshold: float = 0.5
    rearm: float = 0.25

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a setting outside its range."""
        require(self.steps >= 1, f"steps is {self.steps}: give 1 or more")
        require(
            0 <= self.rearm <= self.threshold <= 1 and self.threshold > 0,
            f"a trigger needs 0 <= rearm <= threshold <= 1 and threshold > 0, not {self.rearm:g}"
            f" and {self.threshold:g}",
        )


class _Told(msgspec.Struct, frozen=True):
    """The report of a day, which every request of the day repeats."""

    day: int
    category: str
    weight: float


class DeviceIntent:
    """Answers on one device; all that leaves it is what `coarse` and `randomised` return.

    Without consent, or while there is no model, it says nothing. The model is made the person's own
    when it is first asked, and again when visits or model changed; that is kept in memory alone.

    Args:
        directory: Of the device; it keeps what was told and which triggers have fired.
        events: Visits of the person.
        slot: The shared model.
        vocabulary: Public vocabulary.
        now: Seconds since the epoch.
        part: What of the model is made the person's own; None leaves it as it is shared.
    """

    def __init__(
        self,
        directory: Path,
        events: EventStore,
        slot: ModelSlot,
        vocabulary: Vocabulary,
        *,
        now: Callable[[], float] = time.time,
        part: Part | None = "head",
    ) -> None:
        """Nothing is computed yet."""
        self._events, self._slot, self._vocabulary = events, slot, vocabulary
        self._now, self._part = now, part
        self._told, self._fired = directory / "told", directory / FIRED
        self._version, self._visits = 0, list[list[str]]()
        self._personal: Personal | None = None

    @property
    def model(self) -> Personal | None:
        """The model in use; None without consent or model."""
        if not self._events.consent:
            return None
        version, visits = self._slot.version, self._events.visits()
        if self._personal is None or (version, visits) != (self._version, self._visits):
            self._version, self._visits = version, visits
            self._personal = self._own()
        return self._personal

    def install(self, package: bytes, *, worse: float = WORSE) -> None:
        """Take a new model, unless it does worse on this person's own visits.

        Args:
            package: As `pack_model` made it.
            worse: Nats a question by which it may do worse than the model in use.

        Raises:
            PackageError: It is refused; the old model stays in use.
        """
        visits, before = self._events.visits(), self._slot.predictor()

        def accept(predictor: IntentPredictor) -> bool:
            if before is None:
                return True
            return self._loss(predictor, visits) <= self._loss(before, visits) + worse

        self._slot.install(package, accept)

    def likely(self, count: int = 5) -> dict[str, float]:
        """The likeliest lead categories of the next visit and their probabilities; stays here."""
        found = self._likely()
        if found is None:
            return {}
        best = np.argsort(-found, kind="stable")[:count]
        return {
            self._vocabulary.category(int(token)): float(found[token])
            for token in best
            if token >= FIRST_CATEGORY
        }

    def coarse(self, count: int = 3) -> dict[str, float]:
        """`intent` of a request for recommendations: some categories, weights in tenths.

        The likeliest weighs 1; who would round to 0 is left out.
        """
        likely = self.likely(count)
        most = max(likely.values(), default=1.0)
        tenths = {name: math.floor(10 * weight / most) / 10 for name, weight in likely.items()}
        return {name: weight for name, weight in tenths.items() if weight > 0}

    def randomised(self, epsilon: str) -> dict[str, float]:
        """`intent` of a request: one category, by randomised response.

        Guarantee: pure epsilon-local differential privacy of all that the requests of one UTC day
        tell of the likeliest category; days add up. The report is drawn once a day and repeated,
        also under another epsilon. Its weight is the probability that it is true, which is public.

        Args:
            epsilon: Of a day, a decimal number as text.

        Raises:
            tactful_privacy.ParameterError: Epsilon is out of range, or there is one category only.
        """
        found, day = self._likely(), int(self._now() // _DAY_S)
        if found is None:
            return {}
        categories = self._vocabulary.categories
        told = self._last_told()
        if told is None or told.day < day:
            response = RandomizedResponse(len(categories), epsilon)
            said = int(response.report([int(found[FIRST_CATEGORY:].argmax())])[0])
            told = _Told(day, categories[said], float(response.truth))
            write_whole(self._told, msgspec.json.encode(told))
        return {told.category: told.weight}

    def about_to(self, categories: Sequence[str], *, steps: int = 3) -> float:
        """Probability that one of some categories comes within the next steps; stays here.

        Its standard error is 0.016 at most. Without a model it is 0.
        """
        personal = self.model
        if personal is None:
            return 0.0
        return personal.predictor.likely_within(
            self._history(),
            [self._vocabulary.token(name) for name in categories],
            steps=steps,
            seed=0,  # so that the same visits give the same answer
            continuations=_CONTINUATIONS,
        )

    def fire(self, triggers: Sequence[Trigger]) -> list[str]:
        """Names of the triggers that fire now; each does once until it is armed again.

        To be called when a visit was kept. What has fired is on disk before it is returned.
        """
        before, firing = self._fired_before(), []
        now = before - {trigger.name for trigger in triggers}
        for trigger in triggers:
            likely = self.about_to(trigger.categories, steps=trigger.steps)
            if trigger.name in before and likely >= trigger.rearm:
                now.add(trigger.name)
            elif likely >= trigger.threshold:
                now.add(trigger.name)
                firing.append(trigger.name)
        if now != before:
            write_whole(self._fired, msgspec.json.encode(sorted(now)))
        return firing

    def _own(self) -> Personal | None:
        shared = self._slot.predictor()
        if shared and not np.isfinite(shared.predict(self._history())).all():
            self._slot.roll_back()
            self._version, shared = self._slot.version, self._slot.predictor()
        if shared is None:
            return None
        if self._part is None:
            return Personal(shared, math.nan, math.nan)
        return personalise(shared, self._visits, self._vocabulary, part=self._part)

    def _likely(self) -> NDArray[np.float64] | None:
        personal = self.model
        return None if personal is None else personal.predictor.predict(self._history())

    def _history(self) -> list[int]:
        return [*self._vocabulary.sequence(self._visits).tolist(), BOUNDARY]

    def _loss(self, predictor: IntentPredictor, visits: list[list[str]]) -> float:
        asked = windows(self._vocabulary.sequence(visits[-MOST_VISITS:]))
        if not asked.steps:
            return 0.0
        return mean_loss(*predictor.questions(asked), predictor.temperature)

    def _last_told(self) -> _Told | None:
        try:
            return msgspec.json.decode(self._told.read_bytes(), type=_Told)
        except FileNotFoundError:
            return None

    def _fired_before(self) -> set[str]:
        try:
            return msgspec.json.decode(self._fired.read_bytes(), type=set[str])
        except FileNotFoundError:
            return set()
