"""Sequences against an oracle that tries every assignment of events to steps."""

import re
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.definitions.model import Sequence, Step
from tactful_streaming.patterns.match import Match
from tactful_streaming.patterns.sequence_operator import SequenceOperator

FOREVER = 1 << 40


@dataclass(frozen=True)
class E:
    event_id: str
    type: str
    timestamp: int
    key: str = "u"
    same: str | None = None


Found = tuple[str, str | None, int, int, tuple[str, ...]]


def found(matches: Rows[Match]) -> list[Found]:
    return [(m.key, m.same, m.start, m.end, m.events) for m in matches]


def feed(operator: SequenceOperator, events: Rows[E], watermarks: Rows[int]) -> None:
    def texts(source: str) -> list[str | None]:
        return [e.same if source != "user_id" else e.key for e in events]

    operator.apply(events, [e.key for e in events], np.array(watermarks, np.int64), texts)


def watermarks_of(events: Rows[E], delay: int) -> list[int]:
    newest, result = 0, []
    for event in events:
        newest = max(newest, event.timestamp)
        result.append(max(newest - delay, 0))
    return result


class Oracle:
    """One partition; events in the order of time, those of no named type removed."""

    def __init__(self, sequence: Sequence, events: Rows[E]) -> None:
        named = {t for step in sequence.steps for t in step.events}
        every = any(not step.events for step in sequence.steps)
        self.sequence = sequence
        self.events = [e for e in events if every or e.type in named]
        self.steps = [n for n, step in enumerate(sequence.steps) if not step.negated]

    def matches(self) -> list[tuple[int, int, tuple[str, ...]]]:
        result, start = [], 0
        while start < len(self.events):
            match = self.match_from(start)
            if match is None:
                start += 1
                continue
            first, last = self.events[match[0]], self.events[match[-1]]
            ids = tuple(self.events[i].event_id for i in match)
            result.append((first.timestamp, last.timestamp, ids))
            start = match[-1] + 1 if self.sequence.skip == "past_last" else start + 1
        return result

    def match_from(self, start: int) -> tuple[int, ...] | None:
        rest = range(start + 1, len(self.events))
        candidates = [
            (start, *more)
            for length in range(len(self.events) - start)
            for more in combinations(rest, length)
            if any(
                self.allowed(tuple(zip((start, *more), steps, strict=True)))
                for steps in combinations_with_replacement(self.steps, length + 1)
            )
        ]
        assert len(candidates) <= 1, "the rules allow one match of a beginning"
        return candidates[0] if candidates else None

    def allowed(self, match: tuple[tuple[int, int], ...]) -> bool:
        told_before = any(self.is_whole(match[:n]) for n in range(1, len(match)))
        return self.leads_to(match) and self.is_whole(match) and not told_before

    def is_whole(self, match: tuple[tuple[int, int], ...]) -> bool:
        return self.completes(match) and (not self.ends_in_not(match) or self.survives(match))

    def leads_to(self, match: tuple[tuple[int, int], ...]) -> bool:
        """Whether the right step takes each event, and none is skipped wrongly."""
        for n, (index, step) in enumerate(match):
            if self.taker(match[:n], index) != step:
                return False
            if n and any(not self.skips(match[:n], i) for i in range(match[n - 1][0] + 1, index)):
                return False
        return True

    def targets(self, prefix: tuple[tuple[int, int], ...]) -> list[int]:
        steps = self.sequence.steps
        at, count = -1, 0
        result = []
        if prefix:
            at = prefix[-1][1]
            count = sum(step == at for _, step in prefix)
            most = steps[at].most
            if most is None or count < most:
                result.append(at)
            if count < steps[at].least:
                return result
        for step in self.steps:
            if step > at:
                result.append(step)
                if not steps[step].optional:
                    return result
        return [*result, len(steps)]

    def barred(self, prefix: tuple[tuple[int, int], ...], index: int, target: int) -> bool:
        """Whether an event between the last one and `index` forbids `target`."""
        if not prefix:
            return False
        last, at = prefix[-1]
        between = self.events[last + 1 : index]
        if target == at:
            return self.sequence.contiguity == "strict" and bool(between)
        if self.sequence.contiguity == "strict" and between and target < len(self.sequence.steps):
            return True
        nots = [s for s in self.sequence.steps[at + 1 : target] if s.negated]
        return any(self.accepts(step, e) for e in between for step in nots)

    def accepts(self, step: Step, event: E) -> bool:
        return not step.events or event.type in step.events

    def taker(self, prefix: tuple[tuple[int, int], ...], index: int) -> int | None:
        event = self.events[index]
        if (
            prefix
            and event.timestamp - self.events[prefix[0][0]].timestamp >= self.sequence.within_ms
        ):
            return None
        for target in self.targets(prefix):
            if target == len(self.sequence.steps) or self.barred(prefix, index, target):
                continue
            if self.accepts(self.sequence.steps[target], event):
                return target
        return None

    def skips(self, prefix: tuple[tuple[int, int], ...], index: int) -> bool:
        """Whether the event may come and not be taken, while the next step is awaited."""
        if self.taker(prefix, index) is not None:
            return False
        if self.sequence.contiguity == "strict":
            return len(self.sequence.steps) in self.targets(prefix)
        waits = self.completes(prefix) and not self.barred(prefix, index, len(self.sequence.steps))
        return waits or not any(
            self.accepts(self.sequence.steps[t], self.events[index])
            for t in self.targets(prefix)
            if t < len(self.sequence.steps)
        )

    def completes(self, prefix: tuple[tuple[int, int], ...]) -> bool:
        return len(self.sequence.steps) in self.targets(prefix)

    def ends_in_not(self, prefix: tuple[tuple[int, int], ...]) -> bool:
        return any(step.negated for step in self.sequence.steps[prefix[-1][1] + 1 :])

    def survives(self, match: tuple[tuple[int, int], ...]) -> bool:
        """Whether no event that is forbidden or would be taken comes before its time."""
        first, last = self.events[match[0][0]], self.events[match[-1][0]]
        for_ms = self.sequence.steps[-1].for_ms
        until = (
            first.timestamp + self.sequence.within_ms if for_ms is None else last.timestamp + for_ms
        )
        nots = [s for s in self.sequence.steps[match[-1][1] + 1 :] if s.negated]
        for index in range(match[-1][0] + 1, len(self.events)):
            event = self.events[index]
            if event.timestamp >= until:
                return True
            if self.taker(match, index) is not None:
                return False
            if any(self.accepts(step, event) for step in nots):
                return False
        return True


def expected(sequence: Sequence, events: Rows[E], watermarks: Rows[int]) -> list[Found]:
    in_time = [e for e, w in zip(events, watermarks, strict=True) if e.timestamp >= w]
    in_time.sort(key=lambda e: e.timestamp)  # stable: ties in the order of the log
    partitions: dict[tuple[str, str | None], list[E]] = {}
    for event in in_time:
        if sequence.same is None:
            partitions.setdefault((event.key, None), []).append(event)
        elif event.same is not None:
            partitions.setdefault((event.key, event.same), []).append(event)
    return [
        (*partition, *match)
        for partition, rows in partitions.items()
        for match in Oracle(sequence, rows).matches()
    ]


TYPES = "abcd"


@st.composite
def sequences(draw: st.DrawFn) -> Sequence:
    def types() -> tuple[str, ...]:
        chosen = draw(st.sampled_from(["a", "b", "c", "d", "ab", "bc", "", "a", "b", "c"]))
        return tuple(chosen)

    steps: list[Step] = []
    for number in range(draw(st.integers(1, 4))):
        if number and draw(st.integers(0, 3)) == 0:
            steps.append(Step(types(), negated=True))
        least = draw(st.sampled_from([1, 1, 1, 2]))
        most = draw(st.sampled_from([least, least, least + 1, None]))
        steps.append(Step(types(), optional=draw(st.integers(0, 3)) == 0, least=least, most=most))
    if draw(st.integers(0, 3)) == 0:
        for_ms = draw(st.sampled_from([None, 1, 2, 5]))
        steps.append(Step(types(), negated=True, for_ms=for_ms))
    if all(step.optional or step.negated for step in steps):
        steps[0] = replace(steps[0], optional=False)
    return Sequence(
        name="s",
        entity="user",
        steps=tuple(steps),
        within_ms=draw(st.sampled_from([1, 3, 6, 100])),
        contiguity=draw(st.sampled_from(["strict", "relaxed"])),
        skip=draw(st.sampled_from(["past_last", "to_next"])),
        same=draw(st.sampled_from([None, None, "item_id"])),
    )


@st.composite
def streams(draw: st.DrawFn, size: int = 8) -> list[E]:
    events, now = [], 100
    for number in range(draw(st.integers(0, size))):
        now += draw(st.sampled_from([0, 1, 1, 1, 2, 4]))
        events.append(
            E(
                event_id=str(number),
                type=draw(st.sampled_from("aabbcd")),
                timestamp=now - draw(st.sampled_from([0, 0, 0, 1, 3])),
                key=draw(st.sampled_from(["u", "u", "u", "v"])),
                same=draw(st.sampled_from(["i", "i", None])),
            )
        )
    return events


def check(sequence: Sequence, events: list[E], delay: int) -> None:
    operator = SequenceOperator(sequence)
    watermarks = watermarks_of(events, delay)
    feed(operator, events, watermarks)
    operator.advance(FOREVER)
    assert sorted(found(operator.take()), key=str) == sorted(
        expected(sequence, events, watermarks), key=str
    )
    assert operator.evicted == 0
    assert operator.late <= sum(e.timestamp < w for e, w in zip(events, watermarks, strict=True))


@given(sequences(), streams(), st.sampled_from([0, 2, 50]))
@settings(max_examples=600, deadline=None)
def test_matches_are_those_that_the_definition_allows(
    sequence: Sequence, events: list[E], delay: int
) -> None:
    check(sequence, events, delay)


@given(sequences(), streams(14), st.sampled_from([0, 2, 50]), st.data())
@settings(max_examples=300, deadline=None)
def test_batches_ticks_and_restarts_change_nothing(
    sequence: Sequence, events: list[E], delay: int, data: st.DataObject
) -> None:
    whole = SequenceOperator(sequence)
    watermarks = watermarks_of(events, delay)
    feed(whole, events, watermarks)
    whole.advance(FOREVER)
    parts, stored, matches = SequenceOperator(sequence), dict[str, bytes](), list[Match]()
    start = 0
    while start < len(events):
        end = data.draw(st.integers(start + 1, len(events)))
        feed(parts, events[start:end], watermarks[start:end])
        matches += parts.take()
        if data.draw(st.booleans()):
            for key, blob in parts.pack_changes().items():
                stored.pop(key, None)
                if blob is not None:
                    stored[key] = blob
            parts = SequenceOperator(sequence)
            for key, blob in stored.items():
                parts.unpack(key, blob)
        start = end
    # As ticks of the clock do: one step of time after the other.
    for watermark in range(watermarks[-1] if watermarks else 0, 400):
        timer = parts.next_timer()
        parts.advance(watermark)
        more = parts.take()
        assert not more or (timer is not None and timer <= watermark), (
            "a tick was needed and not asked for"
        )
        matches += more
    assert matches == whole.take()
    parts.advance(FOREVER)
    assert all(blob is None or parts.read(k, 400) for k, blob in parts.pack_changes().items())
    assert parts.next_timer() is None


@given(
    st.lists(st.sampled_from("abcx"), max_size=30),
    st.sampled_from(["strict", "relaxed"]),
    st.sampled_from(["past_last", "to_next"]),
    st.sampled_from(
        [
            ("abc", "abc", "a[^b]*b[^c]*c"),
            ("aab", "aab", "a[^a]*a[^b]*b"),
            ("ab?c", "ab?c", "a(?:[^bc]*b)?[^c]*c"),
            ("a!xb", None, "a[^bx]*b"),
        ]
    ),
)
@settings(max_examples=400, deadline=None)
def test_linear_patterns_are_regular_expressions(
    types: list[str], contiguity: Any, skip: Any, pattern: tuple[str, str | None, str]
) -> None:
    written, strict, relaxed = pattern
    expression = strict if contiguity == "strict" else relaxed
    if expression is None:
        return
    steps = [
        Step((t,), optional=optional == "?", negated=bool(negated))
        for negated, t, optional in re.findall(r"(!?)(\w)(\??)", written)
    ]
    named = {t for step in steps for t in step.events}
    if "?" in written and contiguity == "relaxed":
        expression = "a(?:[^bc]*b[^c]*|[^bc]*)c"
    sequence = Sequence("s", "user", tuple(steps), 1000, contiguity, skip)
    operator = SequenceOperator(sequence)
    events = [E(str(n), t, 100 + n) for n, t in enumerate(types)]
    feed(operator, events, watermarks_of(events, 0))
    operator.advance(FOREVER)
    kept = [e for e in events if e.type in named]
    text, at, spans = "".join(e.type for e in kept), 0, []
    while match := re.compile(expression).search(text, at):
        spans.append((kept[match.start()].timestamp, kept[match.end() - 1].timestamp))
        at = match.end() if skip == "past_last" else match.start() + 1
    assert [(m.start, m.end) for m in operator.take()] == spans


@pytest.mark.slow
@given(sequences(), streams(10), st.sampled_from([0, 2, 50]))
@settings(max_examples=5000, deadline=None)
def test_matches_are_those_that_the_definition_allows_at_length(
    sequence: Sequence, events: list[E], delay: int
) -> None:
    check(sequence, events, delay)
