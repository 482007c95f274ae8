"""Replay of a data set against a running server: events, requests, scores.

The driver knows only the HTTP API. Before each question it sends everything that happened until
then and asks for a list as of that position, so the server has seen all of it and nothing more.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tactful.client import Client
from tactful.demo.baselines import Baseline, CoVisitation, OwnFrequency, Popularity
from tactful.demo.datasets import Ask, Replay
from tactful.errors import TactfulError
from tactful.schemas.positions import Position, covers
from tactful.schemas.recommendations import Recommendation
from tactful.statistics.counter import CLOCK_EVENT
from tactful.training.evaluation import CUTOFF, Scorecard

_BATCH = 2_000
_FRESHNESS_EVERY = 20
_HOUR = 3_600_000


@dataclass
class Outcomes:
    """Results of the requests."""

    served: Scorecard = field(default_factory=Scorecard)  # scores of the ranking under test
    # scores of each baseline by name, on the same questions
    baselines: dict[str, Scorecard] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)  # how each baseline is written
    # by arm, by person: hits and questions of the list the person was really given
    arms: dict[str, dict[str, list[int]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(lambda: [0, 0]))
    )
    # of every request for a list, as the client saw it
    latency_ms: list[float] = field(default_factory=list)
    # from sending an event to reading its feature over HTTP
    freshness_ms: list[float] = field(default_factory=list)
    # channels of the items that were taken
    answered: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    short: int = 0  # lists with fewer items than asked for


class Replayer:
    """Client that sends a replay to a server in event order, once."""

    def __init__(self, client: Client, replay: Replay) -> None:
        """Prepare without sending."""
        self._client = client
        self._replay = replay
        self._popular = popular = Popularity()
        self._together = CoVisitation(popular)
        self._baselines: dict[str, Baseline] = {
            "popularity": popular,
            "own_frequency": OwnFrequency(popular),
            "co_visitation": self._together,
            # Never frozen: a stronger baseline where new items appear.
            "co_visitation_live": CoVisitation(popular, label="Co-visitation, still learning"),
        }
        self._shown: dict[str, tuple[str, frozenset[str]]] = {}
        # A thread scores in order while the server answers the next request.
        self._scoring = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")
        self._scored: deque[Future[None]] = deque()
        self._ticked = 0
        self.sent = 0
        self.position: Position = 0

    def upsert(self, progress: Callable[[int], None]) -> None:
        """Send items and users."""
        for records, send in (
            (self._replay.items, self._client.items),
            (self._replay.users, self._client.users),
        ):
            for start in range(0, len(records), _BATCH):
                chunk = records[start : start + _BATCH]
                answer = send(chunk)
                _require_all(len(chunk), answer.accepted, answer.rejected)
                self.position = answer.position
                progress(len(chunk))

    def send(self, end: int, progress: Callable[[int], None]) -> None:
        """Send the events before number `end`; report the size of each batch as progress."""
        while self.sent < end:
            start = self.sent
            self._send(min(start + _BATCH, end))
            progress(self.sent - start)

    def settle(self, *, timeout: float = 300.0) -> None:
        """Wait until the engine has applied all sent events.

        Raises:
            TactfulError: if it does not within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not covers(self._client.features("nobody").position, self.position):
            if time.monotonic() > deadline:
                problem = f"the engine has not caught up within {timeout:g} s"
                raise TactfulError(f"{problem}; its log says why")
            time.sleep(0.05)

    def ask(
        self, asks: Sequence[Ask], experiment: str, arm: str, *, progress: Callable[[int], None]
    ) -> Outcomes:
        """Send the requests in order, with the events between them.

        Each person's own list comes from the arm they are assigned to and feeds the experiment.
        The quality figures are of `arm`: where a person was assigned another one, the same question
        is asked once more with that arm forced.
        """
        self._later(self._popular.freeze)
        self._later(self._together.freeze)
        outcomes = Outcomes(
            baselines={name: Scorecard() for name in self._baselines},
            labels={name: baseline.label for name, baseline in self._baselines.items()},
        )
        for number, ask in enumerate(asks):
            if ask.before > self.sent:
                started = time.perf_counter()
                self._send(ask.before)
                if number % _FRESHNESS_EVERY == 0:
                    self._await_feature()
                    outcomes.freshness_ms.append((time.perf_counter() - started) * 1e3)
            self._ask(ask, outcomes, experiment, arm)
            progress(1)
        while self._scored:
            self._scored.popleft().result()
        return outcomes

    def _ask(self, ask: Ask, outcomes: Outcomes, experiment: str, arm: str) -> None:
        request: dict[str, Any] = {
            "user_id": ask.person,
            "session_id": ask.session_id,
            "count": CUTOFF,
            "timestamp": ask.at,
            "after": self.position,
        }
        started = time.perf_counter()
        answer = self._client.recommend(**request)
        outcomes.latency_ms.append((time.perf_counter() - started) * 1e3)
        items = frozenset(item.item_id for item in answer.items)
        self._shown[ask.session_id] = (answer.recommendation_id, items)
        assigned, tested = answer.variant.get(experiment, arm), answer
        if assigned != arm:
            tested = self._client.recommend(**request, force={experiment: arm})
        tally = outcomes.arms[assigned][ask.person]
        tally[0] += not items.isdisjoint(ask.taken)
        tally[1] += 1
        self._later(self._score, ask, tested, outcomes)

    def _score(self, ask: Ask, tested: Recommendation, outcomes: Outcomes) -> None:
        """Score the recommendation under test and every baseline's."""
        shown = [item.item_id for item in tested.items]
        outcomes.short += len(shown) < CUTOFF
        outcomes.served.add(ask.person, shown, ask.taken)
        for item in tested.items:
            if item.item_id in ask.taken:
                outcomes.answered[item.channel] += 1
        for name, baseline in self._baselines.items():
            ranked = baseline.ranked(ask.person, ask.session_id)
            outcomes.baselines[name].add(ask.person, ranked, ask.taken)

    def _learn(self, start: int, end: int) -> None:
        """Feed events `start` to `end` to the baselines."""
        replay = self._replay
        for number in range(start, end):
            item, person = replay.item[number], replay.person[number]
            # Guests are left out, as in the published figures of these baselines.
            if item is not None and replay.kind[number] == 0 and not person.startswith("guest-"):
                for baseline in self._baselines.values():
                    baseline.took(person, replay.session[number], item)

    def _later(self, task: Callable[..., None], *arguments: Any) -> None:
        """Queue a scoring step; raise the error of an earlier step."""
        while self._scored and self._scored[0].done():
            self._scored.popleft().result()
        self._scored.append(self._scoring.submit(task, *arguments))

    def _send(self, end: int) -> None:
        """Send events up to `end` in one request, with their recommendation ids."""
        start, replay = self.sent, self._replay
        events: list[dict[str, Any]] = []
        for event in replay.events(start, end):
            events.extend(self._ticks(event["timestamp"] // _HOUR))
            shown = self._shown.get(event["session_id"])
            if shown is not None and event.get("item_id") in shown[1]:
                event["recommendation_id"] = shown[0]
            events.append(event)
        answer = self._client.events(events)
        _require_all(len(events), answer.accepted + answer.duplicates, answer.rejected)
        self.position = answer.position
        self.sent = end
        self._later(self._learn, start, end)

    def _ticks(self, hour: int) -> list[dict[str, Any]]:
        """Yield one clock event for every hour of the replay's time."""
        if hour <= self._ticked:
            return []
        first = self._ticked + 1 if self._ticked else hour
        self._ticked = hour
        return [
            {
                "event_id": f"{self._replay.name}-clock-{tick}",
                "type": CLOCK_EVENT,
                "timestamp": tick * _HOUR,
                "device_id": "replay-clock",
            }
            for tick in range(first, hour + 1)
        ]

    def _await_feature(self) -> None:
        """Wait until the last sent event shows in the features of its user."""
        person = self._replay.person[self.sent - 1]
        key = f"device:{person}" if person.startswith("guest-") else person
        while not covers(self._client.features(key).position, self.position):
            time.sleep(0.0005)


def _require_all(sent: int, taken: int, rejected: Sequence[Any]) -> None:
    if taken != sent or rejected:
        first = f"; the first: {rejected[0].message}" if rejected else ""
        raise TactfulError(f"the server refused {len(rejected)} of {sent} records{first}")
