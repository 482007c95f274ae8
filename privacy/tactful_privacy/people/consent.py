"""Consent: purposes, decisions of people, and the allowed purposes of a person.

A decision records the answers of a person about some purposes, with time and place. Decisions never
change: for each purpose the latest decision applies. A person without a decision gets the default
of the deployment, which denies unless configured otherwise.

A crossing is a purpose of its own for each ordered pair of domains: `shop>magazine` lets the
profile of a person cross from the shop to the magazine. No default and no claim allows it, only a
decision.
"""

from __future__ import annotations

import re
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
        purposes: agreement (true) or refusal (false) by purpose, a `Purpose` or a crossing.
        at: time of the decision, epoch milliseconds.
        source: origin of the decision: a dialogue, a form, a letter.
    """

    version: int
    person: str
    purposes: dict[str, bool]
    at: int
    source: str = ""


class Consents:
    """Consent of all people in memory, about 150 bytes a person.

    Two bit masks for each person, with one bit for each `Purpose`:

        {"u1": (agreed 0b00011, refused 0b10000)}

    The few people who decided about crossings have their answers beside it:

        {"u1": {"shop>magazine": True}}

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
        self._crossings: dict[str, dict[str, bool]] = {}

    def take(self, decisions: Iterable[Decision]) -> None:
        """Apply decisions in the order of their versions; skip applied ones."""
        for decision in decisions:
            if decision.version <= self.version:
                continue
            self.version = decision.version
            agreed, refused = self._answers.get(decision.person, (0, 0))
            for purpose, agrees in decision.purposes.items():
                if purpose not in _BIT:
                    self._crossings.setdefault(decision.person, {})[purpose] = agrees
                    continue
                bit = _BIT[purpose]
                agreed = agreed | bit if agrees else agreed & ~bit
                refused = refused & ~bit if agrees else refused | bit
            self._answers[decision.person] = _shared(agreed, refused)

    def forget(self, person: str) -> None:
        """Delete the decisions of a person."""
        self._answers.pop(person, None)
        self._crossings.pop(person, None)

    def said(self, person: str) -> dict[str, bool]:
        """Return the answers of a person by purpose, without undecided purposes."""
        agreed, refused = self._answers.get(person, (0, 0))
        answers: dict[str, bool] = {
            purpose: bool(agreed & bit) for purpose, bit in _BIT.items() if (agreed | refused) & bit
        }
        return answers | self._crossings.get(person, {})

    def crosses(self, pair: str, *keys: str, claimed: frozenset[Purpose] | None = None) -> bool:
        """Return whether the profile under the first of a person's keys may cross.

        It takes an agreement to the pair, see `crossing`, under that key itself: the agreement of a
        device does not stand for the user who logs in there later. A refusal under any key wins.
        The profile is personalisation, which must be allowed, too; `claimed` as for `allowed`.
        """
        answers = [self._crossings.get(key, {}).get(pair) for key in keys]
        agreed = answers[:1] == [True] and False not in answers
        return agreed and Purpose.PERSONALISATION in self.allowed(*keys, claimed=claimed)

    def held(self, person: str, crossings: Collection[str] = ()) -> list[str]:
        """Return what a person allows now, sorted: purposes, and those of some crossings."""
        return sorted(
            [*self.allowed(person), *(pair for pair in crossings if self.crosses(pair, person))]
        )

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


_BIT: Mapping[str, int] = {purpose: 1 << number for number, purpose in enumerate(Purpose)}
_KNOWN = tuple(purpose.value for purpose in Purpose)

DOMAIN_PATTERN = r"[^\W_][\w-]{0,31}"
"""Names of domains: up to 32 letters of any language, digits, - and _."""

_CROSSING = re.compile(f"{DOMAIN_PATTERN}>{DOMAIN_PATTERN}")


@cache
def _shared(agreed: int, refused: int) -> tuple[int, int]:
    """Return one shared object for each pair of masks, since millions of people have few."""
    return agreed, refused


@cache
def _allowed(agreed: int, refused: int, default: frozenset[Purpose]) -> frozenset[Purpose]:
    if refused & _BIT[Purpose.SERVICE]:
        return NOTHING
    chosen = {
        Purpose(purpose)
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


def crossing(releasing: str, receiving: str) -> str:
    """Name the purpose of letting a profile cross from one domain to another.

    >>> crossing("shop", "magazine")
    'shop>magazine'
    """
    return f"{releasing}>{receiving}"


def is_crossing(name: str) -> bool:
    """Return whether a text has the form of a crossing."""
    return _CROSSING.fullmatch(name) is not None


def parse_decision(answers: Mapping[str, bool], crossings: Collection[str] = ()) -> dict[str, bool]:
    """Check the purposes of a decision: of `Purpose`, or crossings of this installation.

    Any crossing may be refused, so that a user can still withdraw after a domain was removed from
    the settings.

    Raises:
        ParameterError: for another name.
    """
    for name, agrees in answers.items():
        if agrees and is_crossing(name) and name not in crossings:
            known = f"there are {', '.join(sorted(crossings))}" if crossings else "there are none"
            raise ParameterError(f"no profiles cross as in {name!r}: by [domains] {known}")
    parse_purposes(name for name in answers if not is_crossing(name))
    return dict(answers)
