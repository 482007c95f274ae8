"""Bandits of a server: decisions, learning, changes by people, reports."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import UNSET

from tactful.bandits.decisions import Decision, encode_decision, new_decision_id
from tactful.bandits.definitions import BanditDefinition, numbers_of, require_known
from tactful.bandits.learner import BanditLearner
from tactful.bandits.report import BanditReports
from tactful.bandits.serving import FILE, ServedBandit, ServedBandits
from tactful.bandits.store import BanditStore, StoredBandit, apply_file
from tactful.coupons.definitions import load_coupons, require_offered
from tactful.coupons.values import ChosenValue, as_offer, chosen_value
from tactful.errors import ConfigError
from tactful.event_log.recipients import Recipients, RecommendationIds
from tactful.experiments.definitions import CHANGE
from tactful.experiments.metrics import ROLLOUTS
from tactful.experiments.serving import FILE as ROLLOUTS_FILE
from tactful.experiments.serving import ServedRollouts
from tactful.schemas.experiments.bandits import BanditDecision, DecideRequest
from tactful.schemas.problems import ProblemError
from tactful.server.measurement import MeasuredEvents
from tactful.subjects.permissions import CLAIM, claimed
from tactful_bandits.assignment.assign import Assignment
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import Event, subject_key

if TYPE_CHECKING:
    from tactful.server.platform import Platform

logger = logging.getLogger(__name__)

NOBODY = "the request names neither user nor device"
NO_CONSENT = "consent does not allow to personalise"
OFF = "the bandit is off"


class BanditService:
    """Decides by the bandits of a server, and learns them from its log."""

    def __init__(self, platform: Platform, ids: RecommendationIds) -> None:
        """Use the stores of a platform; nothing is learnt before `learn`."""
        installation, backend = platform.resources.installation, platform.backend
        data = installation.settings.storage.data
        self._platform = platform
        self._permissions = platform.permissions
        self._clock = installation.clock
        self._rng = np.random.default_rng()
        self._served = ServedBandits(data / FILE)
        self._rollouts = ServedRollouts(data / ROLLOUTS_FILE)
        self._waiting: set[asyncio.Future[Any]] = set()
        self._refreshing, self._following = threading.Lock(), threading.Lock()
        self.store = BanditStore(installation.metadata, clock=installation.clock)
        recipients = partial(Recipients, platform.engine.resolve, ids)
        self.learner = BanditLearner(
            backend.partitions,
            data,
            data / FILE,
            clock=installation.clock,
            allows=self._allows,
            recipients=recipients,
        )
        measured = MeasuredEvents(backend, platform.permissions)
        self.reports = BanditReports(measured.logs, clock=installation.clock, recipients=recipients)
        if (path := installation.settings.bandits.definitions).name:
            apply_file(self.store, path, check=self._check)
        if any(campaign.bandit for campaign in platform.resources.coupons):
            held = {it.key: it.definition for it in self.store.all()}
            load_coupons(installation.settings.coupons.definitions, bandits=held)

    @property
    def features(self) -> list[str]:
        """Names of the online features of users that are one number."""
        return numbers_of(self._platform.engine.definitions)

    def apply(self, definition: BanditDefinition, *, by: str, reason: str) -> None:
        """Check and store a definition, and publish it; called in a thread.

        Raises:
            ConfigError: if it is wrong, another bandit shapes recommendations, or a campaign
                cannot offer its values.
            StorageError: if the database cannot be used.
        """
        self._check(definition)
        self.store.apply(definition, by=by, reason=reason)
        self.learn()

    def stop(self, key: str, *, by: str, reason: str) -> StoredBandit:
        """Switch a bandit off, and publish that; called in a thread, raises as `apply`."""
        stopped = self.store.stop(key, by=by, reason=reason)
        self.learn()
        return stopped

    def learn(self) -> None:
        """Read the log on and publish what was learnt; called in a thread.

        Raises:
            StorageError: if the database cannot be used.
            OSError: if a file cannot be written.
            StreamingError: if the log cannot be read.
        """
        with self._following:  # what another thread has read from the database may be older
            self.learner.follow([(it.definition, it.state) for it in self.store.all()])
            self.learner.run()
        self.refresh()

    def refresh(self) -> None:
        """Take over what was published, and the present rollouts."""
        with self._refreshing:
            self._served.refresh()
            self._rollouts.refresh()

    def rolled_out(self, key: str) -> list[str]:
        """Return the rollouts that give a bandit to a share of the users."""
        return [it.experiment.key for it in self._rollouts.rollouts if it.bandit == key]

    def decide(self, key: str, request: DecideRequest) -> BanditDecision:
        """Choose an arm for a user, and log the choice; on the event loop.

        Raises:
            ProblemError: if there is no such bandit, or it shapes recommendations.
        """
        bandit = self._served.by_key.get(key)
        if bandit is None:
            raise ProblemError("not_found", "GET /v1/bandits lists all bandits")
        if bandit.definition.recommends:
            raise ProblemError(
                "invalid", "this bandit shapes recommendations: POST /v1/recommend asks it"
            )
        now, user = self._clock(), (request.user_id, request.device_id)
        if reason := self._refusal(bandit, user, request.context, now):
            return _default(bandit, reason)
        decision, rollouts = self._decision(
            bandit,
            request.subject,
            lambda: self._user(request.subject, now),
            request.context,
            now,
        )
        decision_id = new_decision_id(secrets.token_bytes(18))
        record = encode_decision(
            decision,
            decision_id,
            at=now,
            user_id=request.user_id,
            device_id=request.device_id,
            session_id=request.session_id,
            more=rollouts,
        )
        written = self._platform.ingest.append_internal(record)
        self._waiting.add(written)
        written.add_done_callback(self._waiting.discard)
        return BanditDecision(
            bandit=key,
            arm=decision.arm,
            value=_value(bandit, decision.index),
            decision_id=decision_id,
            propensity=decision.propensity,
            serves=decision.live,
        )

    def choose(self, key: str, event: Event, known: Mapping[str, Any]) -> ChosenValue:
        """Choose the value of a coupon for the user of an action; called in a thread.

        The default arm serves while the bandit is not published yet, if it is off, and without
        consent; nothing is to be logged then.

        Args:
            key: key of the bandit.
            event: the action.
            known: online features of its user.

        Raises:
            ConfigError: if there is no such bandit.
            StorageError: if the database cannot be used.
        """
        bandit, now = self._served.by_key.get(key), self._clock()
        if bandit is None:
            if (held := self.store.find(key)) is None:
                raise ConfigError(f"there is no bandit {key!r}, which chooses values of coupons")
            definition = held.definition
            return ChosenValue(as_offer(definition.arms[definition.default_index].value))
        if self._refusal(bandit, (event.user_id, event.device_id), event.context, now):
            return ChosenValue(as_offer(_value(bandit, bandit.default)))
        decision, rollouts = self._decision(
            bandit, subject_key(event), lambda: known, event.context, now
        )
        return chosen_value(_value(bandit, decision.index), decision, rollouts)

    async def close(self) -> None:
        """Wait until all decisions are in the log, and save what was learnt."""
        await asyncio.gather(*self._waiting, return_exceptions=True)
        try:
            await asyncio.to_thread(self.learner.save)
        except OSError as error:  # it is learnt again from the log
            logger.warning("what bandits have learnt was not saved: %s", error)

    def _check(self, definition: BanditDefinition) -> None:
        """Raise ConfigError if this server cannot use a definition."""
        require_known(definition, self.features)
        require_offered(definition, self._platform.resources.coupons)

    def _refusal(
        self,
        bandit: ServedBandit,
        user: tuple[str | None, str | None],
        context: Mapping[str, Any],
        now: int,
    ) -> str:
        """Return why the default arm serves without a trace; empty if the bandit is asked.

        `user` are its user id and device id.
        """
        if bandit.state == "off":
            return OFF
        if user == (None, None):
            return NOBODY
        allowed = self._permissions.of(*user, now, claimed(context.get(CLAIM)))
        return "" if Purpose.PERSONALISATION in allowed else NO_CONSENT

    def _decision(
        self,
        bandit: ServedBandit,
        subject: str | None,
        features: Callable[[], Mapping[str, Any]],
        context: Mapping[str, Any],
        now: int,
    ) -> tuple[Decision, dict[str, Any]]:
        """Decide for a user, with the properties that name the rollout, if one has the bandit."""
        drawn = self._assigned(bandit.definition.key, subject, now)
        decision = bandit.decide(
            features() if bandit.reads_users else {},
            context,
            self._rng,
            in_change=None if drawn is None else drawn.arm == CHANGE,
        )
        rollouts = {} if drawn is None else {ROLLOUTS: [f"{drawn.experiment}:{drawn.arm}"]}
        return decision, rollouts

    def _user(self, subject: str | None, now: int) -> Mapping[str, Any]:
        if subject is None:
            return {}
        with self._platform.lock:
            return dict(self._platform.backend.source.read("user", subject, now))

    def _assigned(self, key: str, subject: str | None, now: int) -> Assignment | None:
        """Return the user's arm of the rollout that has this bandit; None without one."""
        keys = self.rolled_out(key)
        if not keys:
            return None
        drawn = self._rollouts.draw(subject, {}, lambda version: True, at=now, bandit=key)
        return next((it for it in drawn.assignments if it.experiment in keys), None)

    def _allows(self, event: Event) -> bool:
        """Return whether an event may be learnt, by the present consent of its user."""
        claim = claimed(event.context.get(CLAIM)) if event.context else None
        allowed = self._permissions.of(event.user_id, event.device_id, event.timestamp, claim)
        return Purpose.PERSONALISATION in allowed


def _default(bandit: ServedBandit, reason: str) -> BanditDecision:
    arm = bandit.definition.arms[bandit.default]
    return BanditDecision(
        bandit=bandit.definition.key,
        arm=arm.name,
        value=_value(bandit, bandit.default),
        reason=reason,
    )


def _value(bandit: ServedBandit, index: int) -> Any:
    value = bandit.definition.arms[index].value
    return None if value is UNSET else value
