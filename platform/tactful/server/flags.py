"""Flags of a server, assembled from a platform: values for units, tokens, proofs of exposures."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from tactful.errors import StorageError
from tactful.flags import verify
from tactful.flags.assign import ExposureLog, FlagAssigner, Unit, exposures_of
from tactful.flags.exposures import Applied
from tactful.flags.read import FlagReader
from tactful.flags.reasons import assigned, steps
from tactful.flags.service import FlagService
from tactful.flags.sticky import Documents, StickyArms
from tactful.flags.store import FlagStore
from tactful.flags.streams import VersionStreams
from tactful.flags.tokens import LIFETIME_MS, NewUnitLimit, UnitTokens
from tactful.flags.uses import PAYLOAD, FlagUses
from tactful.lifecycle.profile import NAME
from tactful.metadata.flag_arms import StickyArm
from tactful.schemas.experiments.flags import Assignment, AssignRequest, FlagWhy, UnitToken
from tactful.schemas.problems import ProblemError
from tactful.subjects.permissions import CLAIM, claimed
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import (
    DEVICE_PREFIX,
    SERVER,
    Event,
    encode_entry,
    subject_key,
)

if TYPE_CHECKING:
    from tactful.server.platform import Platform

logger = logging.getLogger(__name__)


Sender = tuple[str, str]
"""Id of a browser key, and address of a request with it."""


class ServerFlags:
    """The flags of one server; used from the event loop, but for `refresh` and `store`.

    Attributes:
        service: versions and their changes.
        sticky: sticky arms.
        uses: evaluations by this server.
        reader: state, rules and history of the flags.
        streams: open streams of version numbers.
        doubts: claimed exposures that were not verified since the start, by reason.
    """

    def __init__(self, platform: Platform) -> None:
        """Serve the flags in the metadata of a platform."""
        installation = platform.resources.installation
        self._platform = platform
        self._clock = installation.clock
        store = FlagStore(installation.metadata, clock=self._clock)
        self.service = FlagService(store, clock=self._clock)
        self.sticky = StickyArms(installation.metadata)
        self.uses = FlagUses(store, clock=self._clock)
        self.reader = FlagReader(self.service, self.uses, clock=self._clock)
        self.streams = VersionStreams(self.service.newer, clock=self._clock)
        self.doubts: Counter[str] = Counter()
        self._assigner = FlagAssigner(self.sticky, clock=self._clock)
        key = self.service.secrets.token
        self._tokens = UnitTokens(key)
        self._limit = NewUnitLimit(platform.settings.limits.new_devices_per_hour)
        engine = platform.engine
        self._exposures = ExposureLog(key, seen=lambda name, at: engine.seen(name, at))

    async def assign(self, request: AssignRequest, sender: Sender | None) -> Assignment:
        """Evaluate flags for a unit, and log its exposures.

        Args:
            request: unit, attributes and flags.
            sender: browser key and address of the request; None for a server's key.

        Raises:
            ProblemError: if sticky arms cannot be read or stored now.
        """
        now, served = self._clock(), self.service.served
        unit = self.unit_of(request, now)
        token, verified = None, unit.consented and unit.key is not None
        if verified and sender is not None:
            token = self._token_of(unit.key or "", request.token, now, sender)
            verified = token is not None
        keys = request.flags or None
        try:
            results = await self._assigner.evaluate(served, unit, keys, keep=request.log)
        except StorageError as error:
            logger.warning("sticky arms cannot be used: %s", error)
            raise ProblemError("not_ready", "arms cannot be kept now", retry_after=2) from None
        flags = {}
        for name, result in results.items():
            flags[name] = assigned(result)
            if result.source != "unknown":
                self.uses.note(name, result.value)
        if request.log and verified:
            by_page = sender is not None
            self._log(exposures_of(results, served.number, by_page=by_page), unit, now)
        return Assignment(
            version=served.number,
            flags=flags,
            verified=verified,
            token=token,
            consented=unit.consented,
        )

    def unit_of(self, request: AssignRequest, now: int) -> Unit:
        """Return the unit of a request, with its consent to experiments at a time."""
        claim = claimed(request.context.get(CLAIM)) if request.context else None
        user, device = request.user_id, request.device_id
        allowed = self._platform.permissions.of(user, device, now, claim)
        consented = request.subject is None or Purpose.MEASUREMENT in allowed
        attributes = self._with_life_cycle(request.attributes, request.subject, allowed, now)
        return Unit(user, device, attributes, consented)

    def _with_life_cycle(
        self,
        attributes: Mapping[str, Any],
        key: str | None,
        allowed: frozenset[Purpose],
        now: int,
    ) -> Mapping[str, Any]:
        """Return attributes with the life cycle of the unit, if a rule reads it.

        A page cannot claim another one. It is empty if the request allows no personalisation.
        """
        if NAME not in self.service.served.reads:
            return attributes
        known = {}
        if key is not None and Purpose.PERSONALISATION in allowed:
            known = self._platform.life_cycles.read(key, now)
        return {**attributes, NAME: known}

    def token(self, device_id: str, former: str | None, sender: Sender | None) -> UnitToken:
        """Return the token of a device; `former` is the one so far.

        Raises:
            ProblemError: if too many new devices came from the address of a browser key.
        """
        unit, now = DEVICE_PREFIX + device_id, self._clock()
        token = self._token_of(unit, former, now, sender)
        if token is None:
            raise ProblemError(
                "too_many_requests",
                "too many new devices came from this address in the last hour "
                "(`limits.new_devices_per_hour`)",
                retry_after=600,
            )
        issued = self._tokens.issued_at(token, unit, now)
        return UnitToken(token=token, expires_at=(issued or now) + LIFETIME_MS)

    def _token_of(
        self, unit: str, former: str | None, now: int, sender: Sender | None
    ) -> str | None:
        """Return the token of a known device, or of a new one within the limit."""
        if former is not None:
            issued = self._tokens.issued_at(former, unit, now)
            if issued is not None:
                fresh = now - issued < LIFETIME_MS // 2
                return former if fresh else self._tokens.issue(unit, now)
        admitted = sender is None or self._limit.admits(*sender)
        return self._tokens.issue(unit, now) if admitted else None

    def proven(self, event: Event) -> Event:
        """Return a claimed exposure as the server's own if it is proven, else as it came."""
        unit, token = subject_key(event), event.properties.get("token")
        received = event.received_at or self._clock()
        known = event.sender == SERVER or (
            isinstance(token, str)
            and unit is not None
            and self._tokens.issued_at(token, unit, received) is not None
        )
        found = verify.check(event, self.service.versions, known_unit=known)
        if not isinstance(found, verify.Proof):
            self.doubts[found] += 1
            return event
        if found.sticky is not None and unit is not None:
            document, experiment, arm = found.sticky
            version = found.applied.version
            self._keep(StickyArm(document, experiment, unit, arm, version, received))
        own = self._exposures.proven(found.applied, event, min(event.timestamp, received))
        return msgspec.structs.replace(own, context=event.context, session_id=event.session_id)

    def _keep(self, arm: StickyArm) -> None:
        """Store the arm of a unit that evaluates flags itself, so that the server gives it, too."""
        held = self.sticky.known([arm.document])
        if held is not None and arm.experiment in held[arm.document]:
            return
        task = asyncio.ensure_future(self.sticky.save([arm]))
        task.add_done_callback(_note_failure)

    def _log(self, exposures: list[Applied], unit: Unit, at: int) -> None:
        for applied in exposures:
            event = self._exposures.event(applied, unit, at)
            if event is not None:
                write = self._platform.ingest.append_internal(encode_entry(event))
                write.add_done_callback(partial(self._exposures.settle, event))

    async def why(self, key: str, person: str, attributes: Mapping[str, Any]) -> FlagWhy:
        """Explain the value of a flag for a user or ``device:<device_id>``; logs no exposure.

        Raises:
            ProblemError: if sticky arms cannot be read now.
        """
        device = person.removeprefix(DEVICE_PREFIX) if person.startswith(DEVICE_PREFIX) else None
        user = person if device is None else None
        now = self._clock()
        allowed = self._platform.permissions.of(user, device, now)
        attributes = self._with_life_cycle(attributes, person, allowed, now)
        unit = Unit(user, device, attributes, Purpose.MEASUREMENT in allowed)
        served = self.service.served
        try:
            held = await self._assigner.kept(served, unit)
            results = await self._assigner.evaluate(served, unit, [key], keep=False)
        except StorageError as error:
            logger.warning("sticky arms cannot be used: %s", error)
            raise ProblemError("not_ready", "arms cannot be read now", retry_after=2) from None
        return FlagWhy(
            flag=key,
            unit=person,
            version=served.number,
            result=assigned(results[key]),
            consented=unit.consented,
            sticky={name: arm for arms in held.values() for name, arm in arms.items()},
            steps=steps(served.features, key, unit.to_attributes(), held or None),
        )

    def refresh(self) -> bool:
        """Read a version that another server added; called in a thread."""
        return self.service.refresh()

    def read_by_client(self) -> None:
        """Note that a client has read the payload."""
        self.uses.note(PAYLOAD, None)


def _note_failure(task: asyncio.Future[Documents]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("a sticky arm was not stored: %s", error)
