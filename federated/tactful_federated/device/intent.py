"""Predicted intent of a user on the device, and the part of it sent to the server.

The personal model predicts on the device. A request for recommendations contains at most some
categories with weights in tenths, or one category by randomised response, which is deniable.
Foresights some steps or days ahead fire triggers on the device, and by consent inform a server.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_federated.core.checkpoint import write_whole
from tactful_federated.device.event_store import EventStore
from tactful_federated.device.firing import Moment, TriggerState, decide, of_store
from tactful_federated.device.foresee import foresee
from tactful_federated.device.model_package import ModelSlot
from tactful_federated.device.pace import DAY_S
from tactful_federated.device.personalise import MOST_VISITS, Part, Personal, personalise
from tactful_federated.device.triggers import (
    MOST_UNTOLD,
    Foresight,
    Likely,
    Trigger,
    TriggerLimits,
    about_to_event,
    foresight_of,
)
from tactful_federated.errors import require
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.tokens import BOUNDARY, FIRST_CATEGORY, Vocabulary, windows
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import create_file, exclusive
from tactful_privacy.mechanisms.local import RandomizedResponse

_T = TypeVar("_T")

_DAMAGED = 1_000_000  # more actions than any limit
_LIMITS = TriggerLimits()
_SECRET_BYTES = 32

FIRED: Final = "fired"
"""File of the state of triggers; personal data, deleted when consent is withdrawn."""

WORSE: Final = 0.1
"""Nats a question by which a new model may be worse on a device."""


class _Report(msgspec.Struct, frozen=True):
    """Randomised report of a UTC day; all requests of the day repeat it."""

    day: int
    category: str
    weight: float


class DeviceIntent:
    """Intent on one device; only the results of `coarse` and `randomised` are sent.

    Without consent or model, the results are empty. The model is personalised on first use and
    again when visits or model change; the personal model is kept in memory only.

    Args:
        directory: Directory of the device, for the report of the day and the fired triggers.
        events: Visits of the user.
        slot: Shared model.
        vocabulary: Public vocabulary.
        now: Returns seconds since the epoch.
        part: Layers to personalise; None uses the shared model.
        zone: Time zone of the user, for days and quiet time of triggers; None is the system's.
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
        zone: tzinfo | None = None,
    ) -> None:
        """Keep the arguments; nothing is computed."""
        self._events, self._slot, self._vocabulary = events, slot, vocabulary
        self._now, self._part, self._zone = now, part, zone
        self._report_path, self._fired_path = directory / "told", directory / FIRED
        # Stays when consent is withdrawn: a new one would draw a new report of the same answer.
        self._secret_path = directory / "report-secret"
        self._version, self._visits = 0, list[list[str]]()
        self._personal: Personal | None = None

    @property
    def model(self) -> Personal | None:
        """Personal model; None without consent or model."""
        if not self._events.consent:
            return None
        version, visits = self._slot.version, self._events.visits()
        if self._personal is None or (version, visits) != (self._version, self._visits):
            self._version, self._visits = version, visits
            self._personal = self._personalise()
        return self._personal

    def install(self, package: bytes, *, worse: float = WORSE) -> None:
        """Install a new model unless it is worse on the visits of the user.

        It may be worse than the installed model by `worse` nats a question.

        Raises:
            PackageError: The model is refused; the installed one is unchanged.
        """
        visits, before = self._events.visits(), self._slot.predictor()

        def accept(predictor: IntentPredictor) -> bool:
            if before is None:
                return True
            return self._loss(predictor, visits) <= self._loss(before, visits) + worse

        self._slot.install(package, accept)

    def likely(self, count: int = 5) -> dict[str, float]:
        """Return likely lead categories of the next visit with probabilities; not sent."""
        probabilities = self._likely()
        if probabilities is None:
            return {}
        best = np.argsort(-probabilities, kind="stable")[:count]
        return {
            self._vocabulary.category(int(token)): float(probabilities[token])
            for token in best
            if token >= FIRST_CATEGORY
        }

    def coarse(self, count: int = 3) -> dict[str, float]:
        """Return the `intent` of a request: some categories with weights in tenths.

        The likeliest has the weight 1; weights that round to 0 are left out.
        """
        likely = self.likely(count)
        most = max(likely.values(), default=1.0)
        tenths = {name: math.floor(10 * (weight / most)) / 10 for name, weight in likely.items()}
        return {name: weight for name, weight in tenths.items() if weight > 0}

    def randomised(self, epsilon: str) -> dict[str, float]:
        """Return the `intent` of a request: one category by randomised response.

        Guarantee: all requests of a UTC day together are pure epsilon-local differentially private
        in the likeliest category, also when another epsilon is given later in the day. The report
        of a category is drawn once and repeated on all days (the permanent randomised response of
        RAPPOR: Erlingsson, Pihur, Korolova, CCS 2014), so an answer that stays true costs epsilon
        once. Each further likeliest category, vocabulary or epsilon adds its epsilon. Assumption:
        the secret of the device is not read or deleted. The weight of the report is the public
        probability that it is true.

        Args:
            epsilon: Epsilon of a day, a decimal number as text.

        Raises:
            tactful_privacy.ParameterError: Epsilon is out of range, or there is only one category.
        """
        probabilities, day = self._likely(), int(self._now() // DAY_S)
        if probabilities is None:
            return {}
        categories = self._vocabulary.categories
        report = _read(self._report_path, _Report)
        if report is None or report.day < day:
            true = int(probabilities[FIRST_CATEGORY:].argmax())
            entropy = _repeatable(self._secret(), [*categories, epsilon, categories[true]])
            response = RandomizedResponse(len(categories), epsilon, entropy=entropy)
            number = int(response.report([true])[0])
            report = _Report(day, categories[number], float(response.truth))
            write_whole(self._report_path, msgspec.json.encode(report))
        return {report.category: report.weight}

    def _secret(self) -> bytes:
        if not self._secret_path.exists():
            create_file(self._secret_path, secrets.token_bytes(_SECRET_BYTES))
        secret = self._secret_path.read_bytes()
        require(
            len(secret) == _SECRET_BYTES,
            f"{self._secret_path}: {len(secret)} bytes instead of {_SECRET_BYTES}: the file is"
            " damaged; restore it, or delete it for new reports, which cost their epsilon again",
        )
        return secret

    def about_to(
        self, categories: Sequence[str], *, steps: int = 3, days: float | None = None
    ) -> float:
        """Return the probability of a category within the next steps, or days; not sent.

        It is that of the model: a `Trigger` has a calibration as well. The standard error is at
        most 0.025. Without a model, and by time without known times, the probability is 0.
        """
        trigger = Trigger("about_to", tuple(categories), steps=steps, days=days)
        likely = self.foresee([trigger])
        return likely[0].probability if likely else 0.0

    def foresee(self, triggers: Sequence[Trigger]) -> list[Likely]:
        """Return the calibrated probability of each trigger; empty without a model; not sent."""
        personal = self.model
        if personal is None:
            return []
        visits = self._events.stored_visits()
        return foresee(personal.predictor, self._vocabulary, visits, triggers, now=self._now())

    def fire(
        self,
        triggers: Sequence[Trigger],
        *,
        act: Callable[[Foresight], object] = lambda foresight: None,
        tell: Callable[[dict[str, Any]], bool] | None = None,
        user_id: str | None = None,
        limits: TriggerLimits = _LIMITS,
    ) -> list[Foresight]:
        """Act on the triggers that fire now, and tell a server if the user consents to it.

        Call it after each stored visit, and now and then. Firings are saved first: after a kill an
        action may be missing, but is never taken twice. An event waits until the server has taken
        it, and its id counts once there.

        Args:
            triggers: Triggers, with names of their own.
            act: Takes the action of a foresight that is not held out.
            tell: Sends an event to `POST /v1/events`, and returns whether it was taken; None tells
                nothing. It is only called as far as `EventStore.telling` allows.
            user_id: Id of the user on the server, for the event and the holdout; without one the
                holdout is drawn by the device.
            limits: Limits on actions that the user notices.

        Returns:
            Foresights, held-out ones too; empty without consent or model.

        Raises:
            SettingsError: Two triggers have one name.
        """
        names = [trigger.name for trigger in triggers]
        require(len({*names}) == len(names), "two triggers have one name: give each its own")
        with exclusive(self._fired_path):  # else two processes would both use up the same limit
            if not self._events.consent:
                self._fired_path.unlink(missing_ok=True)
                return []
            fired, untold = self._decide(triggers, user_id, limits, keep=tell is not None)
        for foresight in fired:
            if not foresight.held_out:
                act(foresight)
        if tell is not None:
            self._tell(untold, tell, user_id)
        return fired

    def _decide(
        self,
        triggers: Sequence[Trigger],
        user_id: str | None,
        limits: TriggerLimits,
        *,
        keep: bool,
    ) -> tuple[list[Foresight], list[Foresight]]:
        """Save and return the foresights that fire now, and those that a server is to be told."""
        likely, before, moment = self.foresee(triggers), self._state(), self._moment()
        state, fired = of_store(before, self._events.generation), list[Foresight]()
        for trigger, each in zip(triggers, likely, strict=False):
            state, fires = decide(state, trigger, each, moment, limits)
            if fires:
                unit = self._secret().hex() if user_id is None else user_id
                held_out = trigger.holds_out(unit)
                fired.append(foresight_of(trigger, each, moment.now, held_out=held_out))
        untold = [*state.untold, *fired] if keep else state.untold
        if self._events.telling == "nothing":
            untold = []
        state = msgspec.structs.replace(state, untold=untold[-MOST_UNTOLD:])
        if state != before:
            self._save(state)
        return fired, state.untold

    def _tell(
        self,
        untold: Sequence[Foresight],
        tell: Callable[[dict[str, Any]], bool],
        user_id: str | None,
    ) -> None:
        for foresight in untold:
            event = about_to_event(foresight, self._events.telling, user_id)
            if event is not None and not tell(event):
                return  # the next call tries again
            with exclusive(self._fired_path):
                state = self._state()
                rest = [other for other in state.untold if other.id != foresight.id]
                if rest != state.untold:  # else another process told it too, or it was wiped
                    self._save(msgspec.structs.replace(state, untold=rest))

    def _state(self) -> TriggerState:
        try:
            return _read(self._fired_path, TriggerState) or TriggerState()
        except DECODE_ERRORS:  # damaged, or of an earlier version: caps must hold nevertheless
            moment = self._moment()
            state = TriggerState(day=moment.day, noticed=_DAMAGED, noticed_at=moment.now)
            self._save(state)
            return state

    def _save(self, state: TriggerState) -> None:
        write_whole(self._fired_path, msgspec.json.encode(state))

    def _moment(self) -> Moment:
        now, visits = self._now(), self._events.stored_visits()
        local = datetime.fromtimestamp(now, UTC).astimezone(self._zone)
        hour = local.hour + local.minute / 60
        latest = max((visit.number for visit in visits), default=0)
        return Moment(now, local.toordinal(), hour, visits, latest)

    def _personalise(self) -> Personal | None:
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
        questions = windows(self._vocabulary.sequence(visits[-MOST_VISITS:]))
        if not questions.steps:
            return 0.0
        return predictor.loss(questions)


def _repeatable(secret: bytes, names: list[str]) -> Callable[[int], bytes]:
    """Return a source of entropy that is the same for equal names and random without the secret."""
    seed = secret + msgspec.json.encode(names)
    blocks = itertools.count()
    return lambda n: hashlib.shake_256(next(blocks).to_bytes(8) + seed).digest(n)


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
