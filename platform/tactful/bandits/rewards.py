"""Join the decisions of one bandit with their rewards, in the order of the log.

A reward belongs to the decision that it names by `recommendation_id` or by the property
`decision_id` or `coupon`, else to the user's latest decision before it, and to no other: a repeated
reward changes nothing. Rewards count within the window of the definition, by the time of their
event, and if they reach the log before the grace after it is over. Only then is a decision learnt,
so that rewards are not learnt before the missing ones. The result depends on the log alone, and not
on when it is read.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from tactful.bandits.decisions import MARK, LoggedDecision, read_decision
from tactful.bandits.definitions import BanditDefinition
from tactful.event_log.batches import Record
from tactful.event_log.impressions import decision_named
from tactful.event_log.recipients import LOGINS, Recipients
from tactful_bandits.assignment.conditions import matches
from tactful_bandits.policies.delayed_rewards import PendingRewards
from tactful_bandits.policies.memory import Observation
from tactful_streaming.contract.log_entries import (
    PERSONALISATION,
    Event,
    decode_entry,
    event_for,
    named_keys,
    time_reached,
)
from tactful_streaming.errors import StreamingError

_APPENDED_MS = 2_000
"""Time within which a received event is in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedDecision(Observation):
    """A decision; its reward is known once it is joined.

    Attributes:
        decision_id: its id.
        at: its time, epoch milliseconds.
        user_id: its user.
        device_id: its device.
        probability: probability of the arm under the bandit.
        floor: least probability of any arm, as served.
        live: whether the bandit served.
    """

    decision_id: str
    at: int
    user_id: str | None
    device_id: str | None
    probability: float
    floor: float
    live: bool

    @property
    def unit(self) -> str:
        """Key of the user or device."""
        return self.user_id or f"device:{self.device_id}"


class RewardJoin:
    """Joins the decisions and rewards in one partition of the log.

    Memory grows with the decisions whose window is not over.

    ```text
    _pending   "d-9"  → decision, perhaps with a reward   ─ expire() →  settled(decision)
    _latest    "ada"  → [(time, "d-8"), (time, "d-9")], sorted, until their window is over
    ```
    """

    def __init__(
        self,
        definition: BanditDefinition,
        settled: Callable[[JoinedDecision], None],
        *,
        allows: Callable[[Event], bool] = lambda event: True,
        recipients: Recipients | None = None,
        begun: Callable[[int], None] = lambda period: None,
    ) -> None:
        """Begin without decisions.

        Args:
            definition: the bandit.
            settled: called with each decision, once its reward is known.
            allows: whether an event may be used, by its user's present consent.
            recipients: whose event it is.
            begun: called with the period of each decision.
        """
        self._reward, self._key = definition.reward, definition.key
        self._recommends = definition.recommends
        self._arms = {name: index for index, name in enumerate(definition.names)}
        self._layout = definition.layout if definition.columns else ""
        self._columns, self._period_ms = definition.columns, definition.memory.period_ms
        self._settled, self._allows, self._begun = settled, allows, begun
        self._recipients = recipients or Recipients()
        self._pending: PendingRewards[JoinedDecision] = PendingRewards(self._reward.lasts)
        self._latest: dict[str, list[tuple[int, str]]] = {}
        self._known: dict[str, int] = {}
        self._marks = (MARK, self._reward.event.encode(), *LOGINS)
        self._grace = self._reward.grace
        self._swept = 0
        self.clock = 0  # greatest time that the log has reached, epoch milliseconds

    def __len__(self) -> int:
        """Return the number of decisions whose time for a reward is not over."""
        return len(self._pending)

    def feed(self, records: Iterable[Record]) -> None:
        """Read records of the log, in order; damaged ones are skipped, as in the engine."""
        for _, payload in records:
            if not any(mark in payload for mark in self._marks):
                continue
            try:
                event = event_for(decode_entry(payload), PERSONALISATION)
            except StreamingError:
                continue
            if event is not None:
                self._read(event)
        # Nothing that follows in the log is in time for what is over by the log's own clock.
        if self.clock - self._grace - _APPENDED_MS - self._swept >= self._reward.lasts // 8:
            self.expire(self.clock)

    def expire(self, now: int) -> None:
        """Settle the decisions whose window and grace were over at a time."""
        over = now - self._grace - _APPENDED_MS
        if over - self._swept < min(1_000, self._reward.lasts):
            return
        self._swept = over
        for decision in self._pending.expire(over):
            self._settled(decision)
        begin = over - self._reward.lasts
        self._known = {key: at for key, at in self._known.items() if at > begin}
        latest = {
            unit: [entry for entry in entries if entry[0] > begin]
            for unit, entries in self._latest.items()
        }
        self._latest = {unit: entries for unit, entries in latest.items() if entries}

    def state(self) -> dict[str, Any]:
        """Return the state for `restore`, of plain objects."""
        return {
            "clock": self.clock,
            "known": self._known,
            "latest": self._latest,
            "pending": [_plain(decision) for decision in self._pending.decisions],
            "rewards": dict(self._pending.rewards),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`; KeyError, TypeError or ValueError if it is none."""
        self.clock, self._known = int(state["clock"]), dict(state["known"])
        self._latest = {
            unit: sorted((int(at), str(key)) for at, key in entries)
            for unit, entries in state["latest"].items()
        }
        for plain in state["pending"]:
            decision = JoinedDecision(**plain)
            self._pending.add(decision.decision_id, decision, decision.at)
        for decision_id, reward in state["rewards"].items():
            self._pending.settle(decision_id, reward, self._known[decision_id])

    def _read(self, event: Event) -> None:
        self.clock = max(self.clock, time_reached(event))
        self._recipients.note(event)
        logged = read_decision(event)
        if logged is not None:
            if logged.key == self._key:
                self._add(event, logged)
        elif event.type == self._reward.event:
            self._pay(event)

    def _add(self, event: Event, logged: LoggedDecision) -> None:
        decision_id = event.recommendation_id
        received = max(self.clock, event.received_at or event.timestamp)
        late = self._is_over(event.timestamp, received)
        if decision_id is None or decision_id in self._known or late or not self._allows(event):
            return
        self._known[decision_id] = event.timestamp
        for key in named_keys(event):
            insort(self._latest.setdefault(key, []), (event.timestamp, decision_id))
        arm = self._arms.get(logged.arm)
        known = len(logged.features) == self._columns and logged.layout in ("", self._layout)
        if arm is None or not known:
            return  # it is not learnt, and its rewards are those of no other decision
        period = event.timestamp // self._period_ms
        decision = JoinedDecision(
            arm,
            logged.features,  # type: ignore[arg-type]  # a list takes less memory than an array
            0.0,
            period,
            logged.propensity,
            decision_id=decision_id,
            at=event.timestamp,
            user_id=event.user_id,
            device_id=event.device_id,
            probability=logged.probability,
            floor=logged.floor,
            live=logged.live,
        )
        self._begun(period)
        self._pending.add(decision_id, decision, event.timestamp)

    def _pay(self, event: Event) -> None:
        # By the time of receipt, so that a reward counts whether or not `expire` was called.
        received = max(self.clock, event.received_at or event.timestamp)
        named = self._named(event, received)
        decision_id = self._latest_before(event) if named is None else named
        decision = self._pending.find(decision_id)
        if decision is None or not self._fits(event) or self._is_over(decision.at, received):
            return
        reward = self._value(event)
        if reward is None or not self._allows(event):
            return
        if self._recipients.includes(decision.user_id, decision.device_id, event):
            self._pending.settle(decision_id, reward, event.timestamp)

    def _is_over(self, at: int, received: int) -> bool:
        """Return whether a reward reaches the log too late for a decision."""
        return received >= at + self._reward.lasts + self._grace

    def _named(self, event: Event, received: int) -> str | None:
        """Return the id of the decision that an event names; None if it names none.

        Nobody names a decision before it: an earlier time is that of a clock that is slow. An id
        without a decision that waits may be that of a recommendation, or a code of another coupon.
        """
        if (named := decision_named(event)) is not None:
            return named
        if self._recommends and event.recommendation_id is not None:
            return event.recommendation_id
        for identity in (event.properties.get("coupon"), event.recommendation_id):
            at = self._known.get(identity) if isinstance(identity, str) else None
            if at is not None and not self._is_over(at, received):
                return str(identity)
        return None

    def _latest_before(self, event: Event) -> str:
        """Return the id of the latest decision of an event's user until then; empty for none."""
        latest = (0, "")
        for key in named_keys(event):
            entries = self._latest.get(key, [])
            if place := bisect_right(entries, event.timestamp, key=itemgetter(0)):
                latest = max(latest, entries[place - 1])
        return latest[1]

    def _fits(self, event: Event) -> bool:
        condition = self._reward.filter
        if not condition:
            return True
        attributes = {
            "item_id": event.item_id,
            "properties": event.properties,
            "context": event.context,
        }
        return matches(condition, attributes)

    def _value(self, event: Event) -> float | None:
        if not self._reward.value:
            return 1.0
        value = event.properties.get(self._reward.value)
        if not isinstance(value, int | float) or not value >= 0:
            return None
        return min(float(value) / self._reward.cap, 1.0)


def _plain(decision: JoinedDecision) -> dict[str, Any]:
    names: Sequence[str] = (
        *("arm", "features", "reward", "period", "propensity", "decision_id", "at"),
        *("user_id", "device_id", "probability", "floor", "live"),
    )
    return {name: getattr(decision, name) for name in names}
