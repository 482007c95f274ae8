"""Values of flags for a unit: evaluation, sticky arms, and exposures for the log.

A known unit takes no database access. The first arm of a unit in a sticky experiment is durable
before it is returned, so that a server that is killed gives the same one again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tactful.flags.exposures import Applied, verified_exposure
from tactful.flags.served import ServedFlags
from tactful.flags.sticky import Documents, StickyArms
from tactful.flags.verify import IDENTITY, identity_of
from tactful.metadata.flag_arms import StickyArm
from tactful_bandits.flags import Evaluation, Overrides, evaluate_all
from tactful_bandits.flags.draws import unit_text
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, Event

_NO_EXPERIMENTS = Overrides(enabled=False)
_LONGEST = 256  # characters of a value that identifies a unit
_REMEMBERED = 200_000  # exposures that are not logged again


@dataclass(frozen=True)
class Unit:
    """A unit that flags are evaluated for."""

    user_id: str | None = None
    device_id: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    consented: bool = True  # whether it may take part in experiments

    @property
    def key(self) -> str | None:
        """Key of the user or device; None without both."""
        if self.user_id is not None:
            return self.user_id
        return None if self.device_id is None else DEVICE_PREFIX + self.device_id

    def to_attributes(self) -> dict[str, Any]:
        """Return the attributes for conditions; nobody can claim another id by an attribute.

        Without consent there is no id: no experiment and no share of people applies.
        """
        given = {name: value for name, value in self.attributes.items() if name not in IDENTITY}
        return given | identity_of(self.user_id, self.device_id) if self.consented else given


class FlagAssigner:
    """Evaluates flags for units, on the event loop."""

    def __init__(self, sticky: StickyArms, *, clock: Callable[[], int]) -> None:
        """Keep arms in a store; `clock` is in epoch milliseconds."""
        self._sticky = sticky
        self._clock = clock

    async def evaluate(
        self, served: ServedFlags, unit: Unit, keys: Collection[str] | None, *, keep: bool = True
    ) -> dict[str, Evaluation]:
        """Evaluate flags of a version, by default all.

        Args:
            served: version of the flags.
            unit: the unit.
            keys: keys of the flags; None for all.
            keep: whether new sticky arms are stored.

        Raises:
            StorageError: if sticky arms cannot be read or stored now.
        """
        attributes = unit.to_attributes()
        if not unit.consented or unit.key is None:
            return evaluate_all(served.features, attributes, keys, overrides=_NO_EXPERIMENTS)
        for name in served.kept_by:
            if len(unit_text(attributes.get(name)) or "") > _LONGEST:
                del attributes[name]  # no column is as long: it identifies no unit
        documents = _documents(served, attributes)
        if not documents:
            return evaluate_all(served.features, attributes, keys)
        held = self._sticky.known(documents)
        if held is None:
            held = await self._sticky.read(documents)
        results = evaluate_all(served.features, attributes, keys, sticky=held)
        new = [it.sticky_save for it in results.values() if it.sticky_save is not None]
        if not new or not keep:
            return results
        at = self._clock()
        stored = await self._sticky.save(
            [
                StickyArm(document, experiment, unit.key, arm, served.number, at)
                for document, experiment, arm in dict.fromkeys(new)
            ]
        )
        if all(stored[document].get(name) == arm for document, name, arm in new):
            return results
        # Another server gave the unit an arm meanwhile.
        return evaluate_all(served.features, attributes, keys, sticky={**held, **stored})

    async def kept(self, served: ServedFlags, unit: Unit) -> Documents:
        """Return the sticky arms of a unit, or raise `StorageError`."""
        documents = _documents(served, unit.to_attributes())
        return await self._sticky.read(documents) if documents else {}


class ExposureLog:
    """Makes the events of exposures, each once for a unit, experiment and arm."""

    def __init__(self, key: bytes, *, seen: Callable[[str, int], bool]) -> None:
        """Hash ids under a key; `seen` is whether the engine has applied an event id by a time."""
        self._key = key
        self._seen = seen
        self._logged: OrderedDict[str, None] = OrderedDict()

    def proven(self, applied: Applied, claim: Event, at: int) -> Event:
        """Return the event of an exposure that a client claims and the server has verified."""
        user, device = claim.user_id, claim.device_id
        return verified_exposure(applied, user_id=user, device_id=device, at=at, key=self._key)

    def event(self, applied: Applied, unit: Unit, at: int) -> Event | None:
        """Return the event of an exposure at a time in epoch milliseconds; None: it was logged."""
        user, device = unit.user_id, unit.device_id
        event = verified_exposure(applied, user_id=user, device_id=device, at=at, key=self._key)
        if event.event_id in self._logged or self._seen(event.event_id, at):
            return None
        self._logged[event.event_id] = None
        if len(self._logged) > _REMEMBERED:
            self._logged.popitem(last=False)
        return event

    def settle(self, event: Event, write: asyncio.Future[Any]) -> None:
        """Note the end of a write to the log: after a failure the next evaluation logs again."""
        if write.cancelled() or write.exception() is not None:
            self._logged.pop(event.event_id, None)


def exposures_of(
    results: Mapping[str, Evaluation], version: int, *, by_page: bool = False
) -> list[Applied]:
    """Return the experiments that gave a value by their draw, each once.

    Args:
        results: evaluations by flag.
        version: version of the flags.
        by_page: whether a page sent the attributes. Experiments that draw another attribute than
            the ids are left out then: a page could try values until it gets the arm that it wants.
    """
    return [
        *{
            (it.experiment, it.arm): Applied(it.experiment, it.arm, it.flag, version)
            for it in results.values()
            if it.in_experiment
            and it.hash_used
            and it.experiment is not None
            and it.arm is not None
            and not (by_page and it.unit_attribute not in IDENTITY)
        }.values()
    ]


def _documents(served: ServedFlags, attributes: Mapping[str, Any]) -> list[str]:
    """Return the documents of sticky arms that the experiments of a version may read."""
    return [
        f"{name}||{text}"
        for name in served.kept_by
        if (text := unit_text(attributes.get(name))) is not None
    ]
