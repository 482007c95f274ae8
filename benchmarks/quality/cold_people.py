"""Recommendations for new users, by the number of items that are known of them.

Users of the test period come again under new names just after the cut: nothing but their properties
is known. Each is asked about with 0, 1, 3 and 10 known items; right are the next five they touched.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.quality.dataset import Dataset
from benchmarks.quality.installation import Visitor
from benchmarks.quality.protocol import Touch, touches
from tactful.training.evaluation import CUTOFF, Scorecard

KNOWN = (0, 1, 3, 10)
_NEXT = 5
_PEOPLE = 400
_SECOND = 1_000


@dataclass(frozen=True)
class ColdCard:
    """Scores of the same requests: the product's, and those of popularity before the cut."""

    served: Scorecard = field(default_factory=Scorecard)
    popular: Scorecard = field(default_factory=Scorecard)


def ask_cold(
    visitor: Visitor, dataset: Dataset, progress: Callable[[int, int], None], *, seed: int = 0
) -> dict[int, ColdCard]:
    """Ask for recommendations of new users; return scores by the number of known items.

    Args:
        visitor: client of a server that has everything before the cut.
        dataset: the events.
        progress: called with the number of users so far, and of all.
        seed: of the draw of users.
    """
    cards = {known: ColdCard() for known in KNOWN}
    popular, people = _popular(dataset), _people(dataset)
    chosen = random.Random(seed).sample(sorted(people), min(_PEOPLE, len(people)))
    described = {str(user["user_id"]): user for user in dataset.users}
    start = int(dataset.timestamp[dataset.cut])
    for number, person in enumerate(chosen):
        name = f"cold-{number}"
        if person in described:
            visitor.upsert("user", [{**described[person], "user_id": name}])
        path = people[person]
        sent, at = 0, start + number * 60 * _SECOND
        for known in KNOWN:
            right = frozenset(touch.item for touch in path[known : known + _NEXT])
            if not right:
                break
            if known > sent:
                visitor.send_events(
                    [
                        {
                            "event_id": f"{name}-{place}",
                            "type": dataset.type[path[place].number],
                            "timestamp": at + place * _SECOND,
                            "user_id": name,
                            "session_id": name,
                            "item_id": path[place].item,
                        }
                        for place in range(sent, known)
                    ]
                )
                sent = known
            shown = visitor.ask(name, name, at + known * _SECOND)
            cards[known].served.add(person, shown, right)
            cards[known].popular.add(person, popular, right)
        progress(number + 1, len(chosen))
    return cards


def _people(dataset: Dataset) -> dict[str, list[Touch]]:
    """Return the first touches of different items after the cut, by person."""
    people: dict[str, dict[str, Touch]] = {}
    for touch in touches(dataset):
        if touch.number >= dataset.cut and touch.right:
            people.setdefault(touch.person, {}).setdefault(touch.item, touch)
    longest = max(KNOWN) + _NEXT
    return {name: list(itertools.islice(path.values(), longest)) for name, path in people.items()}


def _popular(dataset: Dataset) -> list[str]:
    counts = Counter(touch.item for touch in touches(dataset) if touch.number < dataset.cut)
    return [item for item, _ in counts.most_common(CUTOFF)]
