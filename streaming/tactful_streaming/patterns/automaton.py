"""Compiles the steps of a sequence into a deterministic automaton.

A state of a partial match is the step last taken, its count, and the next steps that are *barred*
by an event that must not precede them. The rules are those of SQL's ``MATCH_RECOGNIZE`` with
reluctant gaps, made deterministic:

* An event that a next step names is taken by the earliest such step; it is never skipped.
* Relaxed contiguity skips every other event, strict contiguity none.
* ``not`` bars the steps behind it until the forbidden event can no longer stand in between.
* A partial match is complete as soon as all steps left may be empty.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tactful_streaming.definitions.model import Sequence, Step
from tactful_streaming.errors import DefinitionError

ENDED = -1  # transition of an event that ends a partial match without a match
MAX_STATES = 20_000  # most states of one automaton; only very long repetitions need more
_State = tuple[int, int, frozenset[int]]


@dataclass(frozen=True)
class Automaton:
    """Transitions of partial matches, by state and by type of event.

    For ``[view, purchase]`` with the codes purchase 0 and view 1::

        first     (-1, 1)       a view begins state 0 and is taken: 2 * 0 + 1
        rows[0]   (3, 0)        a purchase leads to state 1; a view is skipped
        rows[1]   (2, 2)        state 1 is complete
    """

    codes: dict[str, int]  # number of each event type named in the pattern
    other: int | None  # number of every other type; None if they have no effect
    first: tuple[int, ...]  # transition of an event that may begin a match, by code
    # Transitions by state, by code: `ENDED`, or twice the next state, plus one if the event
    # is taken.
    rows: tuple[tuple[int, ...], ...]
    complete: tuple[bool, ...]  # by state, whether it is a match at once
    pending: tuple[bool, ...]  # by state, whether it becomes a match when its time has passed
    # By state, the one that takes nothing, for a pending partial match older than ``within``.
    closed: tuple[int, ...]
    # The time of a pending state, from the last event taken; None: the rest of ``within``.
    for_ms: int | None
    unbounded: bool  # whether a step may be repeated without limit


def compile_pattern(sequence: Sequence) -> Automaton:
    """Compile `sequence`; DefinitionError if it needs more than :data:`MAX_STATES` states."""
    return _Compiler(sequence).automaton()


class _Compiler:
    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        self._strict = sequence.contiguity == "strict"
        self._steps = [step for step in sequence.steps if not step.negated]
        self._end = len(self._steps)
        named = sorted({type_ for step in sequence.steps for type_ in step.events})
        self._codes = {type_: code for code, type_ in enumerate(named)}
        any_matters = any(not step.events for step in sequence.steps)
        self._other = len(named) if any_matters else None
        self._code_count = len(named) + any_matters
        self._accepts = [self._codes_of(step) for step in self._steps]
        # Forbidden directly before step i: what the `not`s between step i - 1 and step i name.
        self._forbidden: list[set[int]] = [set() for _ in range(self._end + 1)]
        position = 0
        for step in sequence.steps:
            if step.negated:
                self._forbidden[position] |= self._codes_of(step)
            else:
                position += 1

    def automaton(self) -> Automaton:
        numbers: dict[_State, int] = {}
        states: list[_State] = []
        rows: list[tuple[int, ...]] = []
        closed: list[int] = []

        def number(state: _State) -> int:
            if state not in numbers:
                if len(states) >= MAX_STATES:
                    raise DefinitionError(
                        f"{self._sequence.name}: the sequence has more than {MAX_STATES} states: "
                        "let its steps repeat less often"
                    )
                numbers[state] = len(states)
                states.append(state)
            return numbers[state]

        def encode(step: tuple[_State, bool] | None) -> int:
            return ENDED if step is None else 2 * number(step[0]) + step[1]

        start: _State = (-1, 0, frozenset())
        # Before the first step nothing is skipped: an event begins a match or does not.
        first = tuple(
            ENDED if (taken := self._take(start, code)) is None else encode((taken, True))
            for code in range(self._code_count)
        )
        done = 0
        while done < len(states):
            state = states[done]
            rows.append(tuple(encode(self._next(state, c)) for c in range(self._code_count)))
            closed.append(number(self._close(state)) if self._is_pending(state) else ENDED)
            done += 1
        return Automaton(
            codes=self._codes,
            other=self._other,
            first=first,
            rows=tuple(rows),
            complete=tuple(self._is_open(s) and not self._before_end(s) for s in states),
            pending=tuple(self._is_pending(s) for s in states),
            closed=tuple(closed),
            for_ms=self._sequence.steps[-1].for_ms,
            unbounded=any(step.most is None for step in self._steps),
        )

    def _codes_of(self, step: Step) -> set[int]:
        if not step.events:
            return set(range(self._code_count))
        return {self._codes[type_] for type_ in step.events}

    def _targets(self, state: _State) -> Iterable[int]:
        """Yield the steps that may come next, earliest first; the end last."""
        step, count, _ = state
        if step >= 0:
            most = self._steps[step].most
            if most is None or count < most:
                yield step
            if count < self._steps[step].least:
                return
        for target in range(step + 1, self._end + 1):
            yield target
            if target == self._end or not self._steps[target].optional:
                return

    def _take(self, state: _State, code: int) -> _State | None:
        step, count, barred = state
        for target in self._targets(state):
            if target == self._end or target in barred or code not in self._accepts[target]:
                continue
            if target != step:
                return target, 1, frozenset()
            most, least = self._steps[step].most, self._steps[step].least
            return step, min(count + 1, least) if most is None else count + 1, frozenset()
        return None

    def _next(self, state: _State, code: int) -> tuple[_State, bool] | None:
        taken = self._take(state, code)
        if taken is not None:
            return taken, True
        step, count, barred = state
        targets = set(self._targets(state))
        steps = targets - {self._end}
        if self._strict:
            barred |= steps
        elif any(code in self._accepts[target] for target in steps) and not self._is_open(state):
            return None
        barred |= {t for t in targets if t != step and code in self._between(step, t)}
        return None if targets <= barred else ((step, count, barred), False)

    def _between(self, step: int, target: int) -> set[int]:
        """Return the codes forbidden between events of `step` and of `target`."""
        return set().union(*self._forbidden[step + 1 : target + 1])

    def _is_open(self, state: _State) -> bool:
        """Return whether the sequence may end here."""
        return self._end in self._targets(state) and self._end not in state[2]

    def _is_pending(self, state: _State) -> bool:
        return self._is_open(state) and bool(self._before_end(state))

    def _close(self, state: _State) -> _State:
        step, count, barred = state
        return step, count, barred | (set(self._targets(state)) - {self._end})

    def _before_end(self, state: _State) -> set[int]:
        return self._between(state[0], self._end)
