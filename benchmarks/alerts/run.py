"""False alerts and found faults of the packaged rules, on twelve weeks of a real shop.

Four weeks are history; in the eight after them every alert that opens is false, since nothing was
injected. Then each fault is injected into a copy of engine and registry at a moment of the eight
weeks, and the copy goes on until its rule has opened an alert. The engine is the real one.

The shop without faults is scraped once a minute: the shortest span of a rule has five minutes, and
`for` one, so a scrape each 15 s would decide on the same increases; the data has whole minutes
anyway. Copies with a fault are scraped each 15 s, as a server does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.alerts.faults import LONGEST_MIN, SOON_MIN, FirstShown, Injection, day_of, plan
from benchmarks.alerts.shop import (
    CTR,
    HISTORY_WEEKS,
    MINUTES,
    Faults,
    Registry,
    Traffic,
    advance,
    epoch_ms,
    read_traffic,
)
from benchmarks.figures import Figure, main
from tactful.alerts.evaluate import evaluate
from tactful.alerts.memory import Memory, dump_memory, load_memory
from tactful.alerts.rules import PACKAGED, read_alerts
from tactful.schemas.alerts import AlertRule, ThresholdRule

_STEP_S = 15
_SOON_S = 120.0
_NAMES = (
    ("false_alerts_in_8_weeks", "1"),
    ("faults_detected_share", "1"),
    ("detection_delay_p95_s", "s"),
)


def run(quick: bool) -> list[Figure]:
    """Replay the shop, and inject faults into copies."""
    path = Path(os.environ.get("TACTFUL_SHARED", "shared")) / "data/online_retail"
    file = path / "online_retail.parquet"
    if not file.is_file():
        return [Figure(name, None, unit, note=f"{file} is missing") for name, unit in _NAMES]
    rules = [_for_this_shop(rule) for rule in read_alerts(PACKAGED).rules]
    traffic = read_traffic(file)
    injections = plan(rules, traffic, 2 if quick else 8, np.random.default_rng(11))
    replay = Replay(rules, traffic)
    began = time.process_time()
    delays = replay.run(injections)
    took = time.process_time() - began
    return _figures(replay, injections, delays, took)


def _for_this_shop(rule: AlertRule) -> AlertRule:
    """Set the level of the released click rate to half of the usual one, as the runbook says."""
    if isinstance(rule, ThresholdRule) and rule.name == "released_ctr":
        return msgspec.structs.replace(rule, below=CTR / 2)
    return rule


class Replay:
    """The shop without faults, from which copies with a fault branch off."""

    def __init__(self, rules: Sequence[AlertRule], traffic: Traffic) -> None:
        """Replay `traffic` under `rules`."""
        self._rules = rules
        self._by_name = {rule.name: rule for rule in rules}
        self._private = self._by_name["released_ctr"]
        self._traffic = traffic
        self.false: list[str] = []
        self.scrapes = 0

    def run(self, injections: Sequence[Injection]) -> list[float | None]:
        """Return for each injection the seconds until its alert; None if it was not found.

        The seconds count from the scrape that first shows the fault.
        """
        registry, memory = Registry(np.random.default_rng(5)), Memory()
        waiting, delays = list(injections), list[float | None]()
        for minute in range(MINUTES):
            while waiting and waiting[0].minute == minute:
                stored, seed = dump_memory(memory), len(delays)
                delays.append(self._follow(waiting.pop(0), registry, stored, seed))
            advance(registry, self._traffic, minute, 1.0, Faults())
            found = evaluate(
                self._rules, registry.scrape(self._private), epoch_ms(minute + 1), memory
            )
            self.scrapes += 1
            for transition in found:
                if transition.change == "opened" and minute >= HISTORY_WEEKS * 10_080:
                    self.false.append(f"{transition.rule} {day_of(minute)}")
        return delays

    def _follow(
        self, injection: Injection, registry: Registry, stored: bytes, seed: int
    ) -> float | None:
        """Go on with a fault until its rule opens an alert, or for the longest time."""
        copy = registry.copy(np.random.default_rng(1000 + seed))
        memory, rule = load_memory(stored), self._by_name[injection.rule]
        first, shown = FirstShown(rule), None
        minutes = LONGEST_MIN.get(rule.name, SOON_MIN)
        if rule.value.statistic:
            return self._follow_releases(injection, copy, memory)
        first.shows(0.0, copy)
        for step in range(minutes * 60 // _STEP_S):
            second = (step + 1) * _STEP_S
            minute = injection.minute + step * _STEP_S // 60
            advance(copy, self._traffic, minute, _STEP_S / 60, injection.fault)
            now = epoch_ms(injection.minute + second / 60)
            if shown is None and first.shows(second, copy):
                shown = second
            found = evaluate(self._rules, copy.scrape(self._private), now, memory)
            if any(it.change in ("opened", "open") and it.rule == rule.name for it in found):
                return max(0.0, second - shown) if shown is not None else 0.0
        return None

    def _follow_releases(
        self, injection: Injection, copy: Registry, memory: Memory
    ) -> float | None:
        """Go on to the end of the next whole day with the fault, and look at its release."""
        last = (injection.minute // 1440 + 2) * 1440
        for minute in range(injection.minute, last):
            advance(copy, self._traffic, minute, 1.0, injection.fault)
        advance(copy, self._traffic, last, 1.0, injection.fault)
        for step in range(10):
            now = epoch_ms(last + 1) + step * _STEP_S * 1000
            found = evaluate(self._rules, copy.scrape(self._private), now, memory)
            if any(it.change != "cleared" and it.rule == injection.rule for it in found):
                return float(step * _STEP_S)
        return None


def _figures(
    replay: Replay,
    injections: Sequence[Injection],
    delays: Sequence[float | None],
    took: float,
) -> list[Figure]:
    for name in replay.false:
        print(f"false: {name}", file=sys.stderr)
    late = [delay is None or delay > _SOON_S for delay in delays]
    for injection, delay, missed in zip(injections, delays, late, strict=True):
        if missed:
            where = f"{injection.rule} {day_of(injection.minute)} {injection.fault}"
            print(f"missed: {where}: {delay}", file=sys.stderr)
    known = [delay for delay in delays if delay is not None]
    kinds = len({injection.rule for injection in injections})
    return [
        Figure(
            "false_alerts_in_8_weeks",
            float(len(replay.false)),
            "1",
            runs=1,
            note=f"packaged rules, {replay.scrapes} scrapes: {', '.join(replay.false) or 'none'}"[
                :400
            ],
        ),
        Figure(
            "faults_detected_share",
            1 - sum(late) / len(late),
            "1",
            runs=len(late),
            note=f"faults of {kinds} rules, within 2 minutes of the scrape that first shows them",
        ),
        Figure(
            "detection_delay_p95_s",
            float(np.percentile(known, 95)),
            "s",
            runs=len(known),
            note="of the faults that were found, from the scrape that first shows them",
        ),
        Figure("evaluation_ms", took / replay.scrapes * 1e3, "ms", note="CPU, with the replay"),
    ]


if __name__ == "__main__":
    main("alerts", run)
