"""Intents that devices could have sent with replayed requests.

The log has none of them, and the models of devices are not at hand. A Markov chain over the
categories of the log stands in: of the same history it expects nearly what such a model expects. It
is counted before the first replayed request, so that it knows nothing of the answers. Weights are
those that a device sends: of some categories, in tenths, the likeliest has 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tactful.training.history import History
from tactful.training.questions import Question

_SENT = 3  # categories, as `tactful federated intent` sends by default


def with_beliefs(
    questions: Sequence[Question],  # in log order
    history: History,
    held_back: int,  # number of the first question that gets an intent
) -> list[Question]:
    """Return the questions, with an intent from the one of number `held_back` on.

    A question of no user, or of one without a history, gets none.
    """
    if held_back >= len(questions):
        return [*questions]
    steps = _Steps(history, questions[0].offset)
    return [
        *questions[:held_back],
        *(replace(question, intent=steps.belief(question)) for question in questions[held_back:]),
    ]


class _Steps:
    """Categories of each user's items in log order, and those that follow each category."""

    def __init__(self, history: History, before: int) -> None:
        described = history.descriptions(before=before)
        categories = [item.category if item else None for item in described]
        self._names = sorted({name for name in categories if name is not None})
        numbers = {name: number for number, name in enumerate(self._names)}
        of_item = np.array([-1 if it is None else numbers[it] for it in categories], np.int64)
        self._users: dict[str, int] = {}
        of_visit = [
            -1 if subject is None else self._users.setdefault(subject, len(self._users))
            for subject in history.subjects
        ]
        user = np.array(of_visit, np.int64)[history.session]
        # Several events about one item in a row are one step.
        order = np.lexsort((history.offset, user))
        item, user = history.item[order], user[order]
        kept = (user >= 0) & (of_item[item] >= 0)
        kept[1:] &= (item[1:] != item[:-1]) | (user[1:] != user[:-1])
        self._user, self._offset = user[kept], history.offset[order][kept]
        self._category = of_item[item[kept]]
        self._span = int(history.offset.max(initial=0)) + 2
        self._places = self._user * self._span + self._offset
        self._followers = self._count(before)

    def belief(self, question: Question) -> Mapping[str, float] | None:
        """Return the intent of a user just before a question; None without a history."""
        user = self._users.get(question.subject or "")
        if user is None:
            return None
        wanted = user * self._span + min(question.offset, self._span - 1)
        place = int(np.searchsorted(self._places, wanted)) - 1
        if place < 0 or self._user[place] != user:
            return None
        return self._followers.get(int(self._category[place]))

    def _count(self, before: int) -> dict[int, dict[str, float]]:
        """Return the intent after each category, of the steps before an offset."""
        same = (self._user[1:] == self._user[:-1]) & (self._offset[1:] < before)
        count = max(len(self._names), 1)
        pairs, amounts = np.unique(
            self._category[:-1][same] * count + self._category[1:][same], return_counts=True
        )
        first, then = pairs // count, pairs % count
        order = np.lexsort((then, -amounts, first))
        begins = np.flatnonzero(np.diff(first[order], prepend=-1))
        ends = np.append(begins[1:], len(order))[: len(begins)]
        found = {}
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            best = order[begin : min(end, begin + _SENT)]
            found[int(first[best[0]])] = self._intent(then[best], amounts[best])
        return found

    def _intent(
        self, categories: NDArray[np.int64], amounts: NDArray[np.int64]
    ) -> dict[str, float]:
        tenths = (10 * amounts // amounts[0]).tolist()
        return {
            self._names[number]: tenth / 10
            for number, tenth in zip(categories.tolist(), tenths, strict=True)
            if tenth
        }
