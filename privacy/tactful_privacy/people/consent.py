"""Consent: purposes, decisions of people, and the allowed purposes of a person.

A decision records the answers of a person about some purposes, with time and place. Decisions never
change: for each purpose the latest decision applies. A person without a decision gets the default
of the deployment, which denies unless configured otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from functools import cache

import msgspec

from tactful_privacy.errors import ParameterError


class Purpose(StrEnum):
    """Purpose for which data of a person may be used.

    ``SERVICE`` allows data to be stored at all. The other purposes include it: a refusal of the
    service refuses everything, and an agreement to another purpose agrees to the service, unless
    that was refused.
    """

    SERVICE = "service"
    PERSONALISATION = "personalisation"
    MEASUREMENT = "measurement"
    FEDERATED_TRAINING = "federated_training"
    MARKETING = "marketing"


EVERYTHING = frozenset(Purpose)
"""All purposes."""

NOTHING: frozenset[Purpose] = frozenset()
"""No purpose."""


class Decision(msgspec.Struct, kw_only=True, frozen=True):
    """Answers of a person at one time.

    Attributes:
        version: number of the decision in the installation; later decisions have larger numbers.
        person: key of the person: a user id, or ``device:`` and a device id.
        purposes: agreement (true) or refusal (false) by purpose.
        at: time of the decision, epoch milliseconds.
        source: origin of the decision: a dialogue, a form, a letter.
    """

    version: int
    person: str
    purposes: dict[Purpose, bool]
    at: int
    source: str = ""


class Consents:
    """Consent of all people in memory, about 150 bytes a person.

    Two bit masks for each person, with one bit for each `Purpose`:

        {"u1": (agreed 0b00011, refused 0b10000)}

    Attributes:
        default: allowed purposes of people without a decision.
        version: number of the latest applied decision.

    Example:
        >>> consents = Consents()
        >>> agreed = {Purpose.MARKETING: True}
        >>> consents.take([Decision(version=1, person="u1", purposes=agreed, at=0)])
        >>> sorted(consents.allowed("u1")), sorted(consents.allowed("u2"))
        ([<Purpose.MARKETING: 'marketing'>, <Purpose.SERVICE: 'service'>], [])
    """

    def __init__(self, default: Collection[Purpose] = NOTHING) -> None:
        """Begin without decisions; by default nothing is allowed."""
        self.default = frozenset(default)
        self.version = 0
        self._answers: dict[str, tuple[int, int]] = {}

    def take(self, decisions: Iterable[Decision]) -> None:
        """Apply decisions in the order of their versions; skip applied ones."""
        for decision in decisions:
            if decision.version <= self.version:
                continue
            self.version = decision.version
            agreed, refused = self._answers.get(decision.person, (0, 0))
            for purpose, agrees in decision.purposes.items():
                bit = _BIT[purpose]
                agreed = agreed | bit if agrees else agreed & ~bit
                refused = refused & ~bit if agrees else refused | bit
            self._answers[decision.person] = _shared(agreed, refused)

    def forget(self, person: str) -> None:
        """Delete the decisions of a person."""
        self._answers.pop(person, None)

    def said(self, person: str) -> dict[Purpose, bool]:
        """Return the answers of a person by purpose, without undecided purposes."""
        agreed, refused = self._answers.get(person, (0, 0))
        return {
            purpose: bool(agreed & bit) for purpose, bit in _BIT.items() if (agreed | refused) & bit
        }

    def allowed(self, *keys: str, claimed: frozenset[Purpose] | None = None) -> frozenset[Purpose]:
        """Return the allowed purposes of a person with several keys.

        The keys are a user id and the device in use. A refusal under any key applies; without a
        refusal, an agreement under any key is enough.

        Args:
            keys: keys of the person.
            claimed: purposes stated by an event or a request. They replace the default; decisions
                take precedence over them.
        """
        default = self.default if claimed is None else claimed
        agreed = refused = 0
        for key in keys:
            answers = self._answers.get(key)
            if answers is not None:
                agreed |= answers[0]
                refused |= answers[1]
        if not agreed and not refused and claimed is None:
            return default
        return _allowed(agreed, refused, default)


_BIT: Mapping[Purpose, int] = {purpose: 1 << number for number, purpose in enumerate(Purpose)}
_KNOWN = tuple(purpose.value for purpose in Purpose)


@cache
def _shared(agreed: int, refused: int) -> tuple[int, int]:
    """Return one shared object for each pair of masks, since millions of people have few."""
    return agreed, refused


@cache
def _allowed(agreed: int, refused: int, default: frozenset[Purpose]) -> frozenset[Purpose]:
    if refused & _BIT[Purpose.SERVICE]:
        return NOTHING
    chosen = {
        purpose
        for purpose, bit in _BIT.items()
        if not refused & bit and (agreed & bit or purpose in default)
    }
    return frozenset({*chosen, Purpose.SERVICE}) if chosen else NOTHING


def parse_purposes(names: Iterable[str]) -> frozenset[Purpose]:
    """Parse purposes from their names; `ParameterError` for another name."""
    chosen = list(names)
    for name in chosen:
        if name not in _KNOWN:
            raise ParameterError(f"there is no purpose {name!r}: give {', '.join(_KNOWN)}")
    return frozenset(Purpose(name) for name in chosen)
