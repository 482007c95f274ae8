"""Sequences as MATCH_RECOGNIZE, joins as interval joins of Flink SQL.

A sequence becomes a row of pattern variables: ``s0_0, s1_0…`` take one event each, and after each
comes a variable for skipped events (``g0_0…``)::

    view, then at most once click, then purchase  ->  s0_0 g0_0*? s1_0? g1_0*? s2_0

The conditions are deterministic: they follow the rules of our automaton (``automaton.py``), in
which every event has one transition. Flink's patterns have neither alternatives nor groups, so a
condition tests which earlier variables have taken an event.

MATCH_RECOGNIZE cannot match an absence: a last ``not`` is applied to its matches.
"""

from __future__ import annotations

from dataclasses import dataclass

from tactful_streaming.definitions.model import Join, Sequence, Step
from tactful_streaming.flink import sql_text as sql

MATCHES = "found"
"""The table of matches and pairs."""

_MOST_VARIABLES = 200
_NOTHING = "CAST(NULL AS BIGINT)"
_OTHER = ""  # any type that the sequence does not name

_Types = frozenset[str]


@dataclass(frozen=True)
class _Slot:
    """A variable that takes one event: repeat number `repeat` of step `step`."""

    step: int
    repeat: int
    certain: bool  # whether every match fills it

    def of(self, prefix: str) -> str:
        return f"{prefix}{self.step}_{self.repeat}"


@dataclass(frozen=True)
class _Variable:
    name: str
    quantifier: str
    condition: str


class _Pattern:
    """The variables of a sequence, without its last ``not``."""

    def __init__(self, sequence: Sequence) -> None:
        self._strict = sequence.contiguity == "strict"
        self._named = frozenset(t for step in sequence.steps for t in step.events)
        self._universe = self._named | {_OTHER}
        self.steps = [step for step in sequence.steps if not step.negated]
        self._forbidden: list[_Types] = [frozenset()] * (len(self.steps) + 1)
        position = 0
        for step in sequence.steps:
            if step.negated:
                self._forbidden[position] |= self._types(step)
            else:
                position += 1
        self.silence = self._forbidden[-1] if sequence.steps[-1].negated else frozenset()
        self._drop_idle_end()
        if self.silence and any(step.optional and step.least > 1 for step in self.steps):
            # MATCH_RECOGNIZE delays a match while an earlier one may be completed, and `silences`
            # would drop it as late.
            raise sql.CannotCompile(
                "before a last `not` an optional step must not need more than one event: a match "
                "that begins later could end earlier"
            )
        self.slots = self._slots()

    def _types(self, step: Step) -> _Types:
        return frozenset(step.events) if step.events else self._universe

    def _drop_idle_end(self) -> None:
        """Drop optional steps at the end: a match is complete without them."""
        last = max(number for number, step in enumerate(self.steps) if not step.optional)
        idle, ending = len(self.steps) - 1 - last, self.steps[last]
        if self.silence and (idle or ending.most != ending.least):
            raise sql.CannotCompile(
                "before a last `not` the number of events must be fixed: MATCH_RECOGNIZE cannot "
                "extend a match while it waits"
            )
        if any(self._forbidden[last + 1 : len(self.steps)]):
            raise sql.CannotCompile("a `not` after the last required step must be the last step")
        self.steps = self.steps[: last + 1]

    def _slots(self) -> list[_Slot]:
        slots: list[_Slot] = []
        for number, step in enumerate(self.steps):
            last = number == len(self.steps) - 1
            most = step.least if last or step.most is None else step.most
            slots += [
                _Slot(number, repeat, repeat < step.least and not step.optional)
                for repeat in range(most)
            ]
        if len(slots) > _MOST_VARIABLES:
            raise sql.CannotCompile(
                f"its steps need {len(slots)} variables, one for each event; at most "
                f"{_MOST_VARIABLES} are compiled: use fewer repetitions"
            )
        return slots

    def _targets(self, slot: _Slot | None) -> list[_Slot]:
        """Return the slots that may take the next event after `slot`; None: the beginning."""
        known = set(self.slots)
        targets: list[_Slot] = []
        following = 0
        if slot is not None:
            step = self.steps[slot.step]
            repeat = slot.repeat + 1
            again = _Slot(slot.step, repeat, repeat < step.least and not step.optional)
            if again in known:
                targets.append(again)
            if repeat < step.least:
                return targets
            following = slot.step + 1
        for number in range(following, len(self.steps)):
            step = self.steps[number]
            targets.append(_Slot(number, 0, not step.optional))
            if not step.optional:
                break
        return targets

    def _loops(self, slot: _Slot) -> bool:
        """Whether the skipping variable after `slot` also takes events of its step."""
        step = self.steps[slot.step]
        return step.most is None and slot.repeat + 1 == step.least

    def _barred(self, slot: _Slot, type_: str) -> list[_Slot]:
        """Return the targets that an event of `type_` after `slot` excludes."""
        return [
            target
            for target in self._targets(slot)
            if target.step != slot.step
            and any(type_ in f for f in self._forbidden[slot.step + 1 : target.step + 1])
        ]

    def _passed(self, slot: _Slot) -> tuple[_Types, _Types]:
        """Return types skipped after `slot`: those that exclude no target, and those that do."""
        if self._strict:
            return frozenset(), frozenset()
        targets = self._targets(slot)
        passed: set[str] = set()
        barring: set[str] = set()
        for type_ in self._universe:
            if any(type_ in self._types(self.steps[target.step]) for target in targets):
                continue
            barred = self._barred(slot, type_)
            if not barred:
                passed.add(type_)
            elif len(barred) < len(targets) or self._loops(slot):
                barring.add(type_)
        if barring and self._loops(slot):
            raise sql.CannotCompile("a `not` directly after a step that is repeated without limit")
        if len({tuple(self._barred(slot, type_)) for type_ in barring}) > 1:
            raise sql.CannotCompile("several `not`s between steps of which some are optional")
        return frozenset(passed), frozenset(barring)

    def variables(self) -> list[_Variable]:
        """Return the variables of the pattern in order."""
        variables: list[_Variable] = []
        for place, slot in enumerate(self.slots):
            taking = self._taking(place, slot.of("s"))
            variables.append(_Variable(slot.of("s"), "" if slot.certain else "?", taking))
            if place < len(self.slots) - 1:
                variables += self._between(slot)
        return variables

    def _between(self, slot: _Slot) -> list[_Variable]:
        """Return the variables for events skipped after `slot`."""
        passed, barring = self._passed(slot)
        if self._loops(slot):
            passed |= self._types(self.steps[slot.step])
        condition = "" if slot.certain else f"{_taken(slot.of('s'))} AND "
        variables: list[_Variable] = []
        if passed:
            gap = slot.of("g")
            variables.append(_Variable(gap, "*?", condition + self.is_of(gap, passed)))
        if barring:
            # The first event that a `not` forbids, and events skipped after it.
            bar, rest = slot.of("b"), slot.of("r")
            variables.append(_Variable(bar, "?", condition + self.is_of(bar, barring)))
            passing = f"{_taken(bar)} AND {self.is_of(rest, passed | barring)}"
            variables.append(_Variable(rest, "*?", passing))
        return variables

    def _taking(self, place: int, variable: str) -> str:
        """Write the condition of the slot at `place`, by the last filled slot before it."""
        slot = self.slots[place]
        cases: list[tuple[str | None, str]] = []
        for before in reversed(self.slots[:place]):
            condition = self._after(before, slot, variable)
            cases.append((None if before.certain else _taken(before.of("s")), condition))
            if before.certain:
                break
        else:
            cases.append((None, self._after(None, slot, variable)))
        *conditional, (_, otherwise) = cases
        if all(condition == otherwise for _, condition in conditional):
            return otherwise
        whens = " ".join(f"WHEN {taken} THEN {condition}" for taken, condition in conditional)
        return f"CASE {whens} ELSE {otherwise} END"

    def _after(self, before: _Slot | None, slot: _Slot, variable: str) -> str:
        """Write the condition of `slot` directly after `before`."""
        targets = self._targets(before)
        if slot not in targets:
            return "FALSE"
        types = self._types(self.steps[slot.step])
        for earlier in targets[: targets.index(slot)]:
            types -= self._types(self.steps[earlier.step])
        if before is not None and self._loops(before):
            types -= self._types(self.steps[before.step])
        condition = self.is_of(variable, types)
        if before is not None:
            _, barring = self._passed(before)
            if barring and slot in self._barred(before, min(barring)):
                condition += f" AND NOT ({_taken(before.of('b'))})"
        return condition

    def is_of(self, variable: str, types: _Types) -> str:
        """Write the condition that the event of a variable is of one of `types`."""
        column = f"{variable}.type"
        if types == self._universe:
            return "TRUE"
        if _OTHER in types:
            return f"NOT ({_any_of(column, self._named - types)})"
        if not types:
            return "FALSE"
        condition = _any_of(column, types)
        return condition if len(types) == 1 else f"({condition})"

    def ids(self) -> str:
        """Write the array of the ids of the taken events."""
        parts: list[str] = []
        singles: list[str] = []
        for slot in self.slots:
            singles.append(f"LAST({slot.of('s')}.event_id)")
            if self._loops(slot):
                gap = slot.of("g")
                types = self.is_of(gap, self._types(self.steps[slot.step]))
                parts += [_array(singles, self.slots), f"collect_ids({gap}.event_id, {types})"]
                singles = []
        if singles:
            parts.append(_array(singles, self.slots))
        return parts[0] if len(parts) == 1 else f"ARRAY_CONCAT({', '.join(parts)})"

    def first(self, column: str) -> str:
        """Write a column of the first taken event."""
        values: list[str] = []
        for slot in self.slots:
            values.append(f"FIRST({slot.of('s')}.{column})")
            if slot.certain:
                break
        return values[0] if len(values) == 1 else f"COALESCE({', '.join(values)})"

    def last(self, column: str) -> str:
        """Write a column of the last taken event."""
        return f"LAST({self.slots[-1].of('s')}.{column})"


def _any_of(column: str, types: _Types) -> str:
    # Flink's planner fails on IN inside the arguments of an aggregate function.
    return " OR ".join(f"{column} = {sql.literal(type_)}" for type_ in sorted(types))


def _taken(variable: str) -> str:
    return f"LAST({variable}.event_id) IS NOT NULL"


def _array(ids: list[str], slots: list[_Slot]) -> str:
    array = f"ARRAY[{', '.join(ids)}]"
    if all(slot.certain for slot in slots):
        return array
    return f"ARRAY_REMOVE({array}, CAST(NULL AS STRING))"


def sequence_statements(sequence: Sequence) -> tuple[list[str], str]:
    """Compile a sequence to views and the INSERT of its matches."""
    pattern = _Pattern(sequence)
    rows, final = sql.name(f"in_{sequence.name}"), sql.name(f"found_{sequence.name}")
    begun = sql.name(f"begun_{sequence.name}") if pattern.silence else final
    views = [
        f"CREATE TEMPORARY VIEW {rows} AS\n{_rows(sequence)}",
        f"CREATE TEMPORARY VIEW {begun} AS\n{_matches(sequence, pattern, rows)}",
    ]
    if pattern.silence:
        views += _silence_views(sequence, begun, rows, final, pattern.is_of("n", pattern.silence))
    return views, _insert_matches(sequence, final)


def join_statements(join: Join, watermark_delay_ms: int) -> tuple[list[str], str]:
    """Compile a join to views and the INSERT of its pairs."""
    rows, updates = sql.name(f"in_{join.name}"), sql.name(f"items_{join.name}")
    key = sql.entity_column(join.entity)
    # Flink removes rows later than the engine. The watermark at the arrival of each side (including
    # the time that the event itself reaches) shows which rows the engine has removed by then.
    watermark = sql.milliseconds_of("CAST(CURRENT_WATERMARK(et) AS TIMESTAMP(3))")
    before = f"COALESCE({watermark} + 1, 0)"
    columns = "`partition`, item_id, `timestamp`, et"
    views = [
        f"CREATE TEMPORARY VIEW {rows} AS\n"
        f"SELECT {key} AS entity_key, event_id, {columns},\n"
        f"  GREATEST({before}, reached - {watermark_delay_ms}) AS heard\n"
        "FROM events\n"
        f"WHERE {sql.one_of('type', join.events)} AND {key} IS NOT NULL AND item_id IS NOT NULL",
        f"CREATE TEMPORARY VIEW {updates} AS\n"
        f"SELECT {columns}, {before} AS heard FROM `log` WHERE kind = 'item'",
    ]
    start, end = (f"{f}(e.`timestamp`, i.`timestamp`)" for f in ("LEAST", "GREATEST"))
    within, label = sql.interval(join.within_ms), sql.literal(join.name)
    # Every partition has the updates of all items; an event is joined with those of its own.
    return views, (
        f"INSERT INTO {MATCHES}\n"
        f"SELECT e.entity_key || '|' || e.item_id, {label}, e.entity_key, e.item_id,\n"
        f"  {start}, {end}, ARRAY[e.event_id]\n"
        f"FROM {rows} AS e JOIN {updates} AS i\n"
        "ON e.`partition` = i.`partition` AND e.item_id = i.item_id\n"
        f"AND i.et BETWEEN e.et - {within} AND e.et + {within}\n"
        f"AND {start} + {join.within_ms} >= GREATEST(e.heard, i.heard)"
    )


def _rows(sequence: Sequence) -> str:
    """Compile the query of the events of a sequence, with their partition keys."""
    same = "''" if sequence.same is None else sql.text_of(sequence.same)
    types = sorted({type_ for step in sequence.steps for type_ in step.events})
    any_matters = any(not step.events for step in sequence.steps)
    wanted = "" if any_matters else f" AND {sql.one_of('type', types)}"
    key = sql.entity_column(sequence.entity)
    return (
        f"SELECT * FROM (SELECT {key} AS entity_key, {same} AS same_key,\n"
        "    type, event_id, `timestamp`, `offset`, et FROM events)\n"
        f"WHERE entity_key IS NOT NULL AND same_key IS NOT NULL{wanted}"
    )


def _matches(sequence: Sequence, pattern: _Pattern, rows: str) -> str:
    variables = pattern.variables()
    measures = [
        f"{pattern.first('`timestamp`')} AS `start`",
        f"{pattern.last('`timestamp`')} AS `end`",
        f"{pattern.ids()} AS `events`",
    ]
    skip = sequence.skip
    if pattern.silence:
        # `silences` skips matches, as it depends on later events.
        skip = "to_next"
        measures += [
            f"{pattern.first('event_id')} AS first_id",
            f"{pattern.first('`offset`')} AS start_offset",
            f"{pattern.last('`offset`')} AS end_offset",
            "MATCH_ROWTIME() AS found_at",
        ]
    behind = {"past_last": "PAST LAST ROW", "to_next": "TO NEXT ROW"}[skip]
    written = " ".join(f"{variable.name}{variable.quantifier}" for variable in variables)
    defined = ",\n    ".join(f"{variable.name} AS {variable.condition}" for variable in variables)
    return (
        f"SELECT * FROM {rows} MATCH_RECOGNIZE (\n"
        "  PARTITION BY entity_key, same_key ORDER BY et\n"
        f"  MEASURES {', '.join(measures)}\n"
        f"  ONE ROW PER MATCH AFTER MATCH SKIP {behind}\n"
        f"  PATTERN ({written}) WITHIN {sql.interval(sequence.within_ms)}\n"
        f"  DEFINE\n    {defined})"
    )


def _insert_matches(sequence: Sequence, view: str) -> str:
    same = "CAST(NULL AS STRING)" if sequence.same is None else "same_key"
    return (
        f"INSERT INTO {MATCHES}\n"
        f"SELECT entity_key || '|' || same_key, {sql.literal(sequence.name)}, entity_key, {same},\n"
        f"  `start`, `end`, `events`\n"
        f"FROM {view}"
    )


def longest_wait_ms(sequence: Sequence) -> int:
    """Return the longest wait after the last event, ms; 0 without a last ``not``."""
    last = sequence.steps[-1]
    if not last.negated:
        return 0
    return sequence.within_ms if last.for_ms is None else last.for_ms


def _silence_views(
    sequence: Sequence, begun: str, rows: str, final: str, forbidden: str
) -> list[str]:
    """Compile views from the matches that wait to the final ones.

    MATCH_RECOGNIZE cannot match an absence, and an outer interval join emits rows without a partner
    after the watermark, when later operators drop them as late. Here a match enters a stream twice,
    when it is found and when its wait is over; between the two, the stream has all events that
    could end the wait. One function reads it in the order of event time. The second row of a match
    comes from a session window of its own: no other row joins it, so it ends exactly one gap later,
    and the watermark waits for it.

    View `begun` has the matches without the last ``not``: ``start``, ``end``, ``start_offset``,
    ``end_offset``, ``first_id``, ``events`` and the time attribute ``found_at``; `rows` has the
    events. An event, ``n``, ends the wait if it meets `forbidden`. A wait over 999 days cannot be
    compiled.
    """
    noise, waiting = sql.name(f"noise_{sequence.name}"), sql.name(f"waiting_{sequence.name}")
    settled = sql.name(f"settled_{sequence.name}")
    for_ms, wait = sequence.steps[-1].for_ms, longest_wait_ms(sequence)
    due = f"`start` + {sequence.within_ms}" if for_ms is None else f"`end` + {for_ms}"
    past_last = "TRUE" if sequence.skip == "past_last" else "FALSE"
    no_match = f"{_NOTHING}, {_NOTHING}, CAST(NULL AS ARRAY<STRING>), {_NOTHING}"
    return [
        # A pattern of one event, since patterns drop late events.
        f"CREATE TEMPORARY VIEW {noise} AS\n"
        f"SELECT * FROM {rows} MATCH_RECOGNIZE (\n"
        "  PARTITION BY entity_key, same_key ORDER BY et\n"
        "  MEASURES n.`timestamp` AS noise_time, n.`offset` AS noise_offset,\n"
        "    MATCH_ROWTIME() AS heard_at\n"
        "  ONE ROW PER MATCH AFTER MATCH SKIP PAST LAST ROW\n"
        f"  PATTERN (n) DEFINE n AS {forbidden})",
        f"CREATE TEMPORARY VIEW {waiting} AS\n"
        "SELECT entity_key, same_key, found_at AS happened_at, `end` AS `now`,\n"
        "  end_offset AS `offset`, `start`, start_offset, `events`,\n"
        f"  {due} AS due FROM {begun}\n"
        "UNION ALL\n"
        f"SELECT entity_key, same_key, heard_at, noise_time, noise_offset, {no_match}\n"
        f"FROM {noise}\n"
        "UNION ALL\n"
        f"SELECT MAX(entity_key), MAX(same_key), window_time, MAX(`end`) + {wait}, {_NOTHING},\n"
        f"  {no_match}\n"
        # A session's own time is the millisecond before its end.
        f"FROM TABLE(SESSION(TABLE {begun} PARTITION BY (first_id), DESCRIPTOR(found_at),\n"
        f"  {sql.interval(wait + 1)}))\n"
        "GROUP BY first_id, window_start, window_end, window_time",
        f"CREATE TEMPORARY VIEW {settled} AS\n"
        "SELECT entity_key, same_key,\n"
        "  silences(`now`, `offset`, `start`, start_offset, `events`, due, "
        f"{past_last}) OVER (\n"
        "    PARTITION BY entity_key, same_key ORDER BY happened_at\n"
        f"    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS stayed FROM {waiting}",
        f"CREATE TEMPORARY VIEW {final} AS\n"
        "SELECT entity_key, same_key, `start`, `end`, `events`\n"
        f"FROM {settled} CROSS JOIN UNNEST(stayed) AS m(`start`, `end`, `events`)",
    ]
