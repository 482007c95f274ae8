"""Evaluation of all rules on one scrape: which alerts open, and which clear.

It reads no clock and does no I/O: the same rules, scrapes and times give the same alerts.

```text
            holds                for `for`             clear for `clear_for`
   calm ─────────▶ pending ─────────────────▶ open ─────────────────────────▶ calm
     ▲               │ does not hold            │ rule removed or disabled      ▲
     └───────────────┘                          └───────────────────────────────┘
```
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from tactful.alerts.judge import DriftTest, Judgement, decide_drift, judge
from tactful.alerts.memory import AlertState, Memory, series_key, split_key
from tactful.alerts.samples import Labels, Scrape
from tactful.schemas.alerts import AlertRule, DecisionRule, milliseconds

_GONE_MS = 3_600_000  # an alert clears whose value has been missing for this time


class Transition(NamedTuple):
    """An alert that opened or cleared, or an open one whose value is known again."""

    change: Literal["opened", "cleared", "open"]
    rule: str
    labels: Labels
    message: str
    severity: str = ""
    key: str = ""  # identifies rule and labels: there is one open alert for each


def evaluate(
    rules: Sequence[AlertRule], scrape: Scrape, now: int, memory: Memory
) -> list[Transition]:
    """Evaluate rules at `now`, epoch milliseconds; `memory` is changed.

    Returns:
        Alerts that opened or cleared, and those that stay open.
    """
    results = [
        result
        for rule in rules
        if rule.enabled and not isinstance(rule, DecisionRule)
        for result in judge(rule, scrape, now, memory)
    ]
    judgements = [result for result in results if isinstance(result, Judgement)]
    judgements += decide_drift([result for result in results if isinstance(result, DriftTest)])
    memory.finish(now)
    return [*_follow(judgements, now, memory), *_end_unjudged(rules, judgements, now, memory)]


def _follow(judgements: Iterable[Judgement], now: int, memory: Memory) -> Iterable[Transition]:
    for judgement in judgements:
        key = series_key(judgement.rule.name, judgement.labels)
        state = memory.states.get(key)
        if state is None:
            if not judgement.holds:
                continue
            state = memory.states[key] = AlertState()
        change = _step(state, judgement, now)
        if change in ("calm", "cleared"):
            del memory.states[key]
        if change == "calm" or change == "pending":
            continue
        rule, labels = judgement.rule, judgement.labels
        yield Transition(change, rule.name, labels, _message(judgement), rule.severity, key)


def _step(
    state: AlertState, judgement: Judgement, now: int
) -> Literal["calm", "pending", "opened", "open", "cleared"]:
    """Move the state of one alert; return where it is now, or what happened to it."""
    rule = judgement.rule
    if not state.opened:
        if not judgement.holds:
            return "calm"
        state.since = state.since or now
        if now - state.since < milliseconds(rule.hold):
            return "pending"
        state.opened = now
        state.calm = 0
        return "opened"
    if not judgement.clear:
        state.calm = 0
        return "open"
    state.calm = state.calm or now
    return "cleared" if now - state.calm >= milliseconds(rule.clear_for) else "open"


def _end_unjudged(
    rules: Sequence[AlertRule], judgements: Sequence[Judgement], now: int, memory: Memory
) -> Iterable[Transition]:
    """Clear alerts of rules that are gone, and of values that are missing for long."""
    judged = {series_key(each.rule.name, each.labels) for each in judgements}
    known = {rule.name: rule for rule in rules if rule.enabled}
    for key in [key for key in memory.states if key not in judged]:
        state, (name, labels) = memory.states[key], split_key(key)
        if name not in known:
            reason = "the rule was removed or disabled"
        else:
            state.calm = state.calm or now
            if now - state.calm < _GONE_MS:
                continue
            reason = "its value is missing"
        del memory.states[key]
        if state.opened:
            yield Transition("cleared", name, labels, reason, key=key)


def _message(judgement: Judgement) -> str:
    labels = ", ".join(f"{name} {value}" for name, value in judgement.labels if value)
    about = f" ({labels})" if labels else ""
    return f"{judgement.rule.summary}{about}: {judgement.text}"
