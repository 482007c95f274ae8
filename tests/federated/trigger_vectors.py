"""Vectors of triggers: holdouts, pace, decisions, probabilities and events, for other languages."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from tests.federated.wire_terms import INVITATION

from tactful_federated.device.calibration import Calibration
from tactful_federated.device.event_store import TELLING, StoredVisit
from tactful_federated.device.firing import Moment, TriggerState, decide
from tactful_federated.device.foresee import foresee
from tactful_federated.device.pace import DAY_S, steps_within
from tactful_federated.device.triggers import (
    Foresight,
    Likely,
    Trigger,
    TriggerLimits,
    about_to_event,
)
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.vectors import Vector

_CALIBRATION = Calibration(
    source="public", questions=40, raw=(0.1, 0.3, 0.7), calibrated=(0.05, 0.4, 0.6)
)
_TRIGGERS = (
    Trigger("steps", ("tea",), steps=2, most_per_day=2),
    Trigger("days", ("soap", "tea"), days=1.5, threshold=0.4, rearm=0.1),
    Trigger("remind", ("drinks",), action="remind", most_per_day=2, rearm=0.5),
    Trigger("提供", ("茶",), action="offer", steps=1),
)
_LIMITS = (
    TriggerLimits(),
    TriggerLimits(most_per_day=2, gap_minutes=90, quiet=(13, 15)),
    TriggerLimits(most_per_day=4, gap_minutes=0, quiet=None),
)
_SECONDS, _WRONG_CLOCKS = (60.0, 1_800.0, 9_000.0, -2_000.0, 40_000.0), (30 * DAY_S, -30 * DAY_S)
_CHANCES = [0.18] * len(_SECONDS) + [0.05] * len(_WRONG_CLOCKS)
REFUSED = (
    '{"triggers": [{"name": " ", "categories": ["tea"]}]}',
    '{"triggers": [{"name": "a", "categories": []}]}',
    '{"triggers": [{"name": "a", "categories": ["cake"]}]}',
    '{"triggers": [{"name": "a", "categories": ["tea"], "steps": 0}]}',
    '{"triggers": [{"name": "a", "categories": ["tea"], "days": 366}]}',
    '{"triggers": [{"name": "a", "categories": ["tea"], "rearm": 0.6}]}',
    '{"triggers": [{"name": "a", "categories": ["tea"], "threshold": 1.1}]}',
    '{"triggers": [{"name": "a", "categories": ["tea"], "holdout": 1}]}',
    '{"triggers": [{"name": "a", "categories": ["tea"], "most_per_day": 0}]}',
    '{"triggers": [{"name": "a", "categories": ["tea"], "action": "sell"}]}',
    '{"triggers": [{"name": "a", "categories": ["tea"], "pace": [0.7, 0.7]}]}',
    '{"triggers": [{"name": "a", "categories": ["tea"], "hold_out": 0.1}]}',
    '{"triggers": [{"name": "a", "categories": ["tea"]}, {"name": "a", "categories": ["tea"]}]}',
    '{"triggers": [{"name": "a", "categories": ["tea"], "calibration": {"source": "s",'
    ' "questions": 1, "raw": [0.5, 0.4], "calibrated": [0, 1]}}]}',
    '{"triggers": [], "limits": {"most_per_day": -1}}',
    '{"triggers": [], "limits": {"quiet": [22, 25]}}',
    '{"triggers": [], "limits": {"most": 1}}',
    '{"triggers": [], "more": 1}',
    '{"limits": {}}',
    "[]",
    "{",
)


def trigger_vectors(weights: Vector) -> dict[str, Any]:
    """Return the vectors; times are seconds since the epoch."""
    return {
        "holdouts": _holdouts(),
        "pace": _pace(),
        "calibration": {
            "map": msgspec.to_builtins(_CALIBRATION),
            "points": [[p, _CALIBRATION(p)] for p in (0.0, 0.1, 0.2, 0.3, 0.5, 0.69, 0.7, 1.0)],
        },
        "decisions": [_decisions(limits, seed) for seed, limits in enumerate(_LIMITS)],
        "foreseen": _foreseen(weights),
        "events": _events(),
        "refused": list(REFUSED),
    }


def _holdouts() -> list[dict[str, Any]]:
    names = (("tea-soon", ""), ("t", "coupon:foreseen"), ("茶", "coupon:\U0001f375"))
    units = ("", "ada", "顧客-17", "\U0001f375" * 3, "0" * 64, "é")
    return [
        {"name": name, "holdout_name": shared, "holdout": share, "unit": unit, "held": held}
        for name, shared in names
        for unit in units
        for share in (0.1, 0.5, 0.9)
        for held in [Trigger(name, ("tea",), holdout=share, holdout_name=shared).holds_out(unit)]
    ]


def _pace() -> list[dict[str, Any]]:
    random = np.random.default_rng(8)
    times = np.cumsum(random.exponential(DAY_S, 30)).round().tolist()
    steps = random.integers(1, 5, 30).tolist()
    known = (0.5, 0.25, 0.25)
    cases: list[tuple[list[float], list[int], float, float, tuple[float, ...]]] = [
        ([], [], 5.0, DAY_S, ()),
        ([], [], 5.0, DAY_S, known),
        ([9.0] * 3, [1, 2, 3], 9.0, DAY_S, ()),  # imported at once: nothing is known
        *((times, steps, times[-1] + 3_600 * h, DAY_S * d, known) for h in (0, 9) for d in (1, 9)),
        (times, [40] * 30, times[-1], 3 * DAY_S, ()),
        (times, steps, times[-1] - 5 * DAY_S, DAY_S, ()),  # the clock went back
    ]
    return [
        {
            "times": at,
            "steps": counts,
            "now": now,
            "seconds": seconds,
            "pace": list(pace),
            "shares": steps_within(at, counts, now, seconds, pace).tolist(),
        }
        for at, counts, now, seconds, pace in cases
    ]


def _decisions(limits: TriggerLimits, seed: int) -> dict[str, Any]:
    """Return a walk of some days: probabilities rise and fall, and visits come in between."""
    random, state = np.random.default_rng(seed), TriggerState()
    now, visits = 1_790_000_000.0, list[StoredVisit]()
    names, walk = list(INVITATION.categories), list[dict[str, Any]]()
    for _ in range(150):
        now += float(random.choice([*_SECONDS, *_WRONG_CLOCKS], p=_CHANCES))
        if random.random() < 0.3:
            chosen = [names[i] for i in random.integers(0, len(names), random.integers(1, 3))]
            visits.append(StoredVisit(len(visits) + 1, now, chosen))
        which = int(random.integers(len(_TRIGGERS)))
        probability = float(random.choice([0.05, 0.2, 0.45, 0.5, 0.9]))
        moment = Moment(now, int(now // DAY_S), now % DAY_S / 3_600, visits, len(visits))
        likely = Likely(probability, _TRIGGERS[which].categories[0])
        state, fires = decide(state, _TRIGGERS[which], likely, moment, limits)
        walk.append(
            {
                "trigger": which,
                "now": now,
                "day": moment.day,
                "hour": moment.hour,
                "visits": len(visits),
                "probability": probability,
                "fires": fires,
            }
        )
    return {
        "triggers": [_document(trigger) for trigger in _TRIGGERS],
        "limits": msgspec.to_builtins(limits),
        "visits": msgspec.to_builtins(visits),
        "walk": walk,
        "today": state.today,
        "noticed": state.noticed,
        "open": sorted(state.open),
    }


def _foreseen(weights: Vector) -> dict[str, Any]:
    """Return probabilities; they differ by rounding, and by draws at the border of categories."""
    vocabulary = INVITATION.vocabulary
    predictor = IntentPredictor(weights, vocabulary.size, embedding=4, hidden=3, temperature=1.3)
    random, at, visits = np.random.default_rng(9), 1_790_000_000.0, list[StoredVisit]()
    for number in range(1, 25):
        at += float(random.integers(3_600, 2 * DAY_S))
        chosen = random.integers(0, len(vocabulary.categories), random.integers(1, 4))
        visits.append(StoredVisit(number, at, [vocabulary.categories[i] for i in chosen]))
    triggers = [
        *_TRIGGERS,
        Trigger("unknown", ("cake",)),
        Trigger("calibrated", ("tea", "soap", "cake"), steps=3, calibration=_CALIBRATION),
        Trigger("both", ("drinks",), days=3.0, pace=(0.2, 0.5, 0.3), calibration=_CALIBRATION),
    ]
    now = at + 5_000
    found = foresee(predictor, vocabulary, visits, triggers, now=now)
    return {
        "visits": msgspec.to_builtins(visits),
        "now": now,
        "triggers": [_document(trigger) for trigger in triggers],
        "categories": [likely.category for likely in found],
        "probabilities": [likely.probability for likely in found],
    }


def _events() -> list[dict[str, Any]]:
    foresights = [
        Foresight("ab", "t", "offer", "tea", 0.79, 3, None, 1_790_000_000.25, False, "g", {}),
        Foresight("cd", "茶", "remind", "茶", 1.0, None, 1.5, 1_790_000_000.0, True, "", {}),
    ]
    return [
        {
            "foresight": msgspec.to_builtins(foresight),
            "telling": telling,
            "event": about_to_event(foresight, telling, None),
        }
        for foresight in foresights
        for telling in TELLING
    ]


def _document(trigger: Trigger) -> dict[str, Any]:
    """Return a trigger as the file of a shop has it."""
    document: dict[str, Any] = msgspec.to_builtins(trigger)
    return document
