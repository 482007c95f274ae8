"""Judgement of one rule by its kind: whether its condition holds, no longer holds, or neither."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tactful.alerts.drift import holm, ks_distance, ks_p_value, psi
from tactful.alerts.memory import POINTS, Memory, Season, series_key, split_key
from tactful.alerts.samples import Labels, Reading, Scrape
from tactful.alerts.seasonal import HOUR_MS, expect, record, slot_of
from tactful.alerts.signals import histogram, read_signal
from tactful.schemas.alerts import (
    AbsenceRule,
    AnomalyRule,
    ChangeRule,
    DriftRule,
    ThresholdRule,
    milliseconds,
)

JudgedRule = ThresholdRule | ChangeRule | AbsenceRule | AnomalyRule | DriftRule
"""Rules that look at a value."""


class Judgement(NamedTuple):
    """Whether the condition of a rule holds for some labels.

    `clear` is not the opposite of `holds`: between the two levels of a threshold neither is true.
    """

    rule: JudgedRule
    labels: Labels
    holds: bool
    clear: bool
    text: str  # the value and the level, for a message


class DriftTest(NamedTuple):
    """A test that is decided together with all others of the evaluation."""

    rule: DriftRule
    labels: Labels
    psi: float  # population stability index
    p_value: float


def judge(
    rule: JudgedRule, scrape: Scrape, now: int, memory: Memory
) -> Sequence[Judgement | DriftTest]:
    """Judge a rule on a scrape; a label set without a value is left out."""
    if isinstance(rule, ThresholdRule):
        readings = read_signal(rule.value, scrape, now, memory)
        return [_threshold(rule, labels, reading) for labels, reading in readings.items()]
    if isinstance(rule, ChangeRule):
        return _changes(rule, read_signal(rule.value, scrape, now, memory), now, memory)
    if isinstance(rule, AbsenceRule):
        return _absence(rule, read_signal(rule.value, scrape, now, memory, whole=True), now, memory)
    if isinstance(rule, AnomalyRule):
        readings = read_signal(rule.value, scrape, now, memory, whole=True)
        return _anomalies(rule, readings, now, memory)
    return _drift(rule, scrape, now, memory)


def decide_drift(tests: Sequence[DriftTest]) -> Iterable[Judgement]:
    """Decide all drift tests of one evaluation, corrected for their number."""
    corrected = holm([test.p_value for test in tests])
    for test, p_value in zip(tests, corrected, strict=True):
        holds = test.psi >= test.rule.psi and p_value < test.rule.alpha
        text = f"PSI {test.psi:.2f} (at least {test.rule.psi:g}), p {p_value:.1g} after Holm"
        yield Judgement(test.rule, test.labels, holds, not holds, text)


def _threshold(rule: ThresholdRule, labels: Labels, reading: Reading) -> Judgement:
    if rule.above is not None:
        back = rule.above if rule.clear is None else rule.clear
        holds, clear = reading.low > rule.above, reading.value <= back
        beyond = f"above {rule.above:g}"
    else:
        level = 0.0 if rule.below is None else rule.below
        back = level if rule.clear is None else rule.clear
        holds, clear = reading.high < level, reading.value >= back
        beyond = f"below {level:g}"
    text = f"{reading.text}, {beyond}" if reading.text else beyond
    return Judgement(rule, labels, holds, clear and not holds, text)


def _changes(
    rule: ChangeRule, readings: dict[Labels, Reading], now: int, memory: Memory
) -> list[Judgement]:
    span, judgements = milliseconds(rule.against), []
    for labels, reading in readings.items():
        points = memory.means.setdefault(series_key(rule.name, labels), [])
        known = points and points[0][0] <= now - span + span // POINTS
        if known:
            mean = max(sum(value for _, value in points) / len(points), rule.floor)
            rises = bool(rule.rises) and reading.low > mean * (1 + rule.rises)
            falls = bool(rule.falls) and reading.high < mean * (1 - rule.falls)
            text = f"{'rose' if rises else 'fell'} against the mean of {rule.against}"
            if reading.text:
                text = f"{reading.text}, {text}"
            judgements.append(Judgement(rule, labels, rises or falls, not (rises or falls), text))
        if not points or now - points[-1][0] >= span // POINTS:
            points.append((now, reading.value))
            while len(points) > 1 and points[1][0] <= now - span:
                points.pop(0)
    return judgements


def _absence(
    rule: AbsenceRule, readings: dict[Labels, Reading], now: int, memory: Memory
) -> list[Judgement]:
    grows = rule.value.change == "increase"
    present = {labels for labels, reading in readings.items() if not grows or reading.value > 0}
    for labels in present:
        memory.seen[series_key(rule.name, labels)] = now
    expected = {*readings, *_known_labels(rule, memory)}
    text = f"nothing for {rule.value.within}" if grows else "there is no value"
    return [
        Judgement(rule, labels, labels not in present, labels in present, text)
        for labels in sorted(expected)
        if series_key(rule.name, labels) in memory.seen
    ]


def _known_labels(rule: AbsenceRule, memory: Memory) -> Iterable[Labels]:
    if rule.value.change == "increase":
        return []  # without a sample nothing is known of its growth
    return [labels for name, labels in map(split_key, memory.seen) if name == rule.name]


def _anomalies(
    rule: AnomalyRule, readings: dict[Labels, Reading], now: int, memory: Memory
) -> list[Judgement]:
    judgements = []
    for labels, reading in readings.items():
        season = memory.seasons.setdefault(series_key(rule.name, labels), Season({}))
        expected = expect(season, now, rule.season, rule.least_periods)
        hour = now // HOUR_MS
        if hour > season.hour and now - hour * HOUR_MS < HOUR_MS // 4:
            record(season, hour, slot_of(hour, rule.season), reading.value, rule.least_periods)
        if expected is None:
            continue
        deviation = expected.deviation(reading.value, reading.weight)
        change = abs(reading.value - expected.median) / max(expected.median, 1e-9)
        judged = expected.median >= rule.least_value
        below = deviation < -rule.deviations and rule.direction != "above"
        above = deviation > rule.deviations and rule.direction != "below"
        holds = judged and change >= rule.least_change and (below or above)
        side = "below" if deviation < 0 else "above"
        text = f"more than {rule.deviations:g} robust deviations {side} the usual of this hour"
        judgements.append(Judgement(rule, labels, holds, not holds, text))
    return judgements


def _drift(rule: DriftRule, scrape: Scrape, now: int, memory: Memory) -> list[DriftTest]:
    span = milliseconds(rule.value.within)
    long = span + milliseconds(rule.reference)
    recent = histogram(rule.value, scrape, now, memory, span)
    whole = histogram(rule.value, scrape, now, memory, long)
    tests = []
    for labels, current in recent.items():
        reference = [
            max(0.0, total - part) for total, part in zip(whole[labels], current, strict=True)
        ]
        if min(sum(current), sum(reference)) < max(rule.value.least, 1.0):
            continue
        distance = ks_distance(reference, current)
        p_value = ks_p_value(distance, sum(reference), sum(current))
        tests.append(DriftTest(rule, labels, psi(reference, current), p_value))
    return tests
