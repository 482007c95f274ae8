"""Oracle of sequences and joins: tries every assignment of all events.

A match assigns events to steps in the order of event time. The oracle only checks whether an
assignment is allowed; it has no automaton and no batches.
"""

from collections.abc import Sequence as Rows
from typing import NamedTuple

from tests.streaming.oracle import ItemVersions, key_source, reached, value_of

from tactful_streaming.contract.log_entries import Entry, Event, Item, Tick
from tactful_streaming.definitions.model import Definitions, Join, Sequence, Step


class MatchRow(NamedTuple):
    """A match, or a pair of a join (`same`: its item, `events`: its event)."""

    name: str
    key: str
    same: str | None
    start: int
    end: int
    events: tuple[str, ...]


class SequenceOracle:
    """Matches of sequences and pairs of joins, over a whole log of one partition."""

    def __init__(self, definitions: Definitions, delay: int = 0) -> None:
        self.definitions, self.delay = definitions, delay
        self.newest, self.late, self.ids = 0, 0, set[str]()
        self.catalogue = ItemVersions()
        self.kept: dict[tuple[str, str, str | None], list[Event]] = {}
        self.heard: list[tuple[Join, str, Event, int]] = []
        self.updates: list[tuple[Item, int]] = []

    @property
    def watermark(self) -> int:
        return max(self.newest - self.delay, 0)

    def apply(self, entry: Entry) -> None:
        if isinstance(entry, Item):
            self.catalogue.add(entry)
            self.updates.append((entry, self.watermark))
        elif isinstance(entry, Tick):
            self.newest = max(self.newest, entry.timestamp)
        elif isinstance(entry, Event) and entry.event_id not in self.ids:
            self.ids.add(entry.event_id)
            self.newest = max(self.newest, reached(entry))
            for sequence in self.definitions.sequences:
                self._keep(sequence, entry)
            for join in self.definitions.joins:
                key = value_of(key_source(join.entity), entry, self.catalogue)
                if entry.type in join.events and key is not None:
                    self.heard.append((join, key, entry, self.watermark))

    def matches(self) -> list[MatchRow]:
        """Every match of which the watermark says that it is certain."""
        found = []
        for (name, key, same), events in self.kept.items():
            (sequence,) = (s for s in self.definitions.sequences if s.name == name)
            for chosen in matches_of(sequence, events, self.watermark):
                start, end = chosen[0].timestamp, chosen[-1].timestamp
                ids = tuple(event.event_id for event in chosen)
                found.append(MatchRow(name, key, same, start, end, ids))
        return found

    def pairs(self) -> list[MatchRow]:
        """Every event of a join with every near update, if both came in time."""
        found = []
        for join, key, event, event_heard in self.heard:
            for item, item_heard in self.updates:
                start, end = sorted((event.timestamp, item.timestamp))
                near = item.item_id == event.item_id and end - start <= join.within_ms
                if near and start + join.within_ms >= max(event_heard, item_heard):
                    ids = (event.event_id,)
                    found.append(MatchRow(join.name, key, item.item_id, start, end, ids))
        return found

    def _keep(self, s: Sequence, event: Event) -> None:
        if all(step.events for step in s.steps) and not _is_named(s, event):
            return
        key = value_of(key_source(s.entity), event, self.catalogue)
        same = None if s.same is None else value_of(s.same, event, self.catalogue)
        if key is None or (s.same is not None and type(same) not in (str, int)):
            return
        if event.timestamp < self.watermark:
            self.late += 1
        else:
            text = None if same is None else str(same)
            self.kept.setdefault((s.name, key, text), []).append(event)


def matches_of(s: Sequence, events: Rows[Event], watermark: int) -> list[tuple[Event, ...]]:
    """Matches among the events of one key and what they have in common."""
    in_time = sorted(events, key=lambda event: event.timestamp)
    passed = [event for event in in_time if event.timestamp < watermark]
    found: list[tuple[Event, ...]] = []
    first = 0
    while first < len(passed):
        chosen = _match_from(s, passed, first, watermark)
        if chosen is None:
            first += 1
        elif not chosen:
            break  # Whether later ones count is known only when this one is.
        else:
            found.append(tuple(passed[index] for index in chosen))
            first = chosen[-1] + 1 if s.skip == "past_last" else first + 1
    return found


def _match_from(
    s: Sequence, events: Rows[Event], first: int, watermark: int
) -> tuple[int, ...] | None:
    """The match that begins with event `first`; None without one, () while open."""
    steps = [number for number, step in enumerate(s.steps) if not step.negated]
    begin = events[first].timestamp
    chosen: list[int] = []
    step, count, gap = -1, 0, list[Event]()  # The step last taken, how often, and what came since.

    def next_steps() -> list[int]:
        if step >= 0 and count < s.steps[step].least:
            return [step]
        most = s.steps[step].most if step >= 0 else 0
        found = [step] if most is None or count < most else []
        for number in steps:
            if number > step:
                found.append(number)
                if not s.steps[number].optional:
                    break
        return found

    def is_clear(until: int) -> bool:
        """Whether nothing forbidden has come between the step last taken and step `until`."""
        between = s.steps[step + 1 : until]
        return not any(_fits(negated, e) for negated in between if negated.negated for e in gap)

    def may_end() -> bool:
        if count < s.steps[step].least or not is_clear(len(s.steps)):
            return False
        return all(s.steps[number].optional for number in steps if number > step)

    def deadline() -> int:
        silence = s.steps[-1].for_ms
        return begin + s.within_ms if silence is None else events[chosen[-1]].timestamp + silence

    for index in range(first, len(events)):
        event = events[index]
        if chosen and may_end() and deadline() <= event.timestamp:
            return tuple(chosen)
        in_reach = event.timestamp - begin < s.within_ms
        if chosen and not in_reach and not may_end():
            return None
        fitting = [number for number in next_steps() if _fits(s.steps[number], event)]
        able = [n for n in fitting if n == step or is_clear(n)] if in_reach else []
        if s.contiguity == "strict" and gap:
            able = []
        if able:
            count = count + 1 if able[0] == step else 1
            step, gap = able[0], []
            chosen.append(index)
            if may_end() and not any(negated.negated for negated in s.steps[step + 1 :]):
                return tuple(chosen)
            continue
        if not chosen:
            return None
        gap.append(event)
        if not may_end() and (s.contiguity == "strict" or fitting):
            return None  # An event that a next step names is not passed over.
    if may_end():
        return tuple(chosen) if deadline() <= watermark else ()
    return None if begin + s.within_ms <= watermark else ()


def _fits(step: Step, event: Event) -> bool:
    return not step.events or event.type in step.events


def _is_named(s: Sequence, event: Event) -> bool:
    return any(_fits(step, event) for step in s.steps)
