"""What people have agreed to: purposes, decisions, and what follows from them.

A decision is what a person said about some purposes, when, and where. Decisions are never changed:
a later one adds to what is known, and for each purpose the latest word holds. Who said nothing is
treated by the default of the deployment, which denies unless somebody chose otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum

import msgspec

from tactful_privacy.errors import ParameterError


class Purpose(StrEnum):
    """What data of a person may be used for.

    ``SERVICE`` is to take it at all. The others build on it: who refuses the service refuses
    everything, and who agrees to another purpose agrees to the service, unless they refused it.
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
    """What a person said at one time.

    Attributes:
        version: number of the decision in the installation; later ones have larger numbers.
        person: key of the person: a user id, or ``device:`` and a device id.
        purposes: whether each purpose that was spoken of is agreed to.
        at: when it was said, epoch milliseconds.
        source: where it was said: a dialogue, a form, a letter.
    """

    version: int
    person: str
    purposes: dict[Purpose, bool]
    at: int
    source: str = ""


class Consents:
    """What everybody has agreed to, in memory; some 150 bytes for each person who said something.

    Attributes:
        default: what those may be used for who said nothing.
        version: number of the latest decision taken in.
    """

    def __init__(self, default: Collection[Purpose] = NOTHING) -> None:
        """Know of no decision yet; by default nothing is allowed."""
        self.default = frozenset(default)
        self.version = 0
        self._said: dict[str, tuple[int, int]] = {}
        self._sets = _Sets()

    def take(self, decisions: Iterable[Decision]) -> None:
        """Take decisions in, in the order of their versions; those known already change nothing."""
        for decision in decisions:
            if decision.version <= self.version:
                continue
            self.version = decision.version
            agreed, refused = self._said.get(decision.person, (0, 0))
            for purpose, agrees in decision.purposes.items():
                bit = _BIT[purpose]
                agreed = agreed | bit if agrees else agreed & ~bit
                refused = refused & ~bit if agrees else refused | bit
            self._said[decision.person] = self._sets.pair(agreed, refused)

    def forget(self, person: str) -> None:
        """Forget what a person said: from now on they said nothing."""
        self._said.pop(person, None)

    def said(self, person: str) -> dict[Purpose, bool]:
        """What a person said of each purpose; without those they said nothing of."""
        agreed, refused = self._said.get(person, (0, 0))
        return {
            purpose: bool(agreed & bit) for purpose, bit in _BIT.items() if (agreed | refused) & bit
        }

    def allowed(self, *keys: str, claimed: frozenset[Purpose] | None = None) -> frozenset[Purpose]:
        """What a person may be used for who is known under all of `keys`.

        Several keys stand for one person: a user id and the device in use. A refusal under any of
        them holds; an agreement under any of them is enough where none refuses.

        Args:
            keys: of the person.
            claimed: what the person agrees to, by what comes along with an event or a request. It
                stands in the place of the default: what they decided for good holds before it.
        """
        default = self.default if claimed is None else claimed
        agreed = refused = 0
        for key in keys:
            said = self._said.get(key)
            if said is not None:
                agreed |= said[0]
                refused |= said[1]
        if not agreed and not refused and claimed is None:
            return default
        return self._sets.allowed(agreed, refused, default)


class _Sets:
    """The few sets there are, made once each."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[int, int], tuple[int, int]] = {}
        self._allowed: dict[tuple[int, int, frozenset[Purpose]], frozenset[Purpose]] = {}

    def pair(self, agreed: int, refused: int) -> tuple[int, int]:
        return self._pairs.setdefault((agreed, refused), (agreed, refused))

    def allowed(self, agreed: int, refused: int, default: frozenset[Purpose]) -> frozenset[Purpose]:
        key = agreed, refused, default
        found = self._allowed.get(key)
        if found is None:
            found = self._allowed[key] = _allowed(agreed, refused, default)
        return found


_BIT: Mapping[Purpose, int] = {purpose: 1 << number for number, purpose in enumerate(Purpose)}
_KNOWN = tuple(purpose.value for purpose in Purpose)


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
    """Purposes by their names.

    Raises:
        ParameterError: if there is no purpose of a name.
    """
    chosen = list(names)
    for name in chosen:
        if name not in _KNOWN:
            raise ParameterError(f"there is no purpose {name!r}: name {', '.join(_KNOWN)}")
    return frozenset(Purpose(name) for name in chosen)
