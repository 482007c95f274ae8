"""Baseline recommenders that get exactly the same requests.

A good analyst would try these first: items popular with all users, items popular with this user,
and items that go with those of the visit. Each gets the user's events up to the request.
Popularity and co-visitation learn up to the cut, as the published figures and the served index
do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from tactful.training.evaluation import CUTOFF

_REACH = 3
_KEPT = 60


class Popularity:
    """The most taken items of all users before a cut."""

    label = "Popularity"

    def __init__(self) -> None:
        """Start with no counts."""
        self._counts: Counter[str] = Counter()
        self._frozen: list[str] | None = None

    def took(self, person: str, session: str, item: str) -> None:
        """Count until frozen."""
        if self._frozen is None:
            self._counts[item] += 1

    def freeze(self) -> None:
        """Stop counting: the training period is over."""
        self._frozen = _top(self._counts, CUTOFF)

    def ranked(self, person: str, session: str) -> list[str]:
        """Return the same items for every user."""
        return self._frozen if self._frozen is not None else _top(self._counts, CUTOFF)


class OwnFrequency:
    """The most taken items of the user, then those of all users."""

    label = "Own frequency"

    def __init__(self, popular: Popularity) -> None:
        """Fill up from `popular`."""
        self._popular = popular
        self._own: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def took(self, person: str, session: str, item: str) -> None:
        """Count for the user."""
        self._own[person][item] += 1

    def ranked(self, person: str, session: str) -> list[str]:
        """Return own items first."""
        own = _top(self._own[person], CUTOFF) if person in self._own else []
        return _filled(own, self._popular.ranked(person, session))


class CoVisitation:
    """Items that followed the last items within three steps, weighted by distance.

    Before the first item of a visit, the items of the person's previous visit stand in.
    """

    def __init__(self, popular: Popularity, *, label: str = "Co-visitation") -> None:
        """Fill up from `popular`; `label` names the baseline."""
        self.label = label
        self._popular = popular
        self._next: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._frozen: Mapping[str, Sequence[tuple[str, float]]] | None = None
        self._visit: dict[str, list[str]] = {}
        self._latest: dict[str, str] = {}

    def took(self, person: str, session: str, item: str) -> None:
        """Add the item to its visit; learn until frozen."""
        if self._latest.get(person) != session:
            self._visit.pop(self._latest.get(person, ""), None)
            self._latest[person] = session
        visit = self._visit.setdefault(session, [])
        if self._frozen is None:
            for distance, before in enumerate(reversed(visit[-_REACH:]), start=1):
                if before != item:
                    self._next[before][item] += 1 / distance  # type: ignore[assignment]
        visit.append(item)

    def freeze(self) -> None:
        """Stop learning at the end of the training period; visits are still followed."""
        self._frozen = {item: found.most_common(_KEPT) for item, found in self._next.items()}

    def ranked(self, person: str, session: str) -> list[str]:
        """Return items that went with those of the visit."""
        at_hand = self._visit.get(session, [])[-_REACH:]
        if not at_hand:
            at_hand = self._visit.get(self._latest.get(person, ""), [])
        scores: Counter[str] = Counter()
        for place, item in enumerate(reversed(at_hand)):
            for other, weight in self._neighbours(item):
                scores[other] += weight / (place + 1)  # type: ignore[assignment]
        return _filled(_top(scores, CUTOFF), self._popular.ranked(person, session))

    def _neighbours(self, item: str) -> Sequence[tuple[str, float]]:
        if self._frozen is not None:
            return self._frozen.get(item, ())
        return self._next[item].most_common(_KEPT) if item in self._next else ()


Baseline = Popularity | OwnFrequency | CoVisitation  # recommenders that learn event by event


def _top(counts: Counter[str], count: int) -> list[str]:
    return [item for item, _ in counts.most_common(count)]


def _filled(own: list[str], rest: Sequence[str]) -> list[str]:
    held = set(own)
    return own + [item for item in rest if item not in held][: CUTOFF - len(own)]
