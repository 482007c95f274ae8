"""What followed from lists, person by person and arm by arm: the read-out of an experiment.

It reads the log, inside the trusted zone. People are what was drawn, so people are what is counted:
of each, how many lists they were shown and from how many of them they took something.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tactful.impressions import Impression, decode_impression
from tactful_bandits import (
    Comparison,
    Experiment,
    Proportion,
    Ratio,
    Sample,
    SampleRatio,
    check_sample_ratio,
    compare,
    holm,
)
from tactful_streaming import (
    DEVICE_PREFIX,
    PERSONALISATION,
    EventLog,
    StreamingError,
    decode_entry,
    event_for,
)

_CHUNK = 2_048

METRICS = {
    "taken_lists": "share of lists from which something was taken",
    "takers": "share of people who took something from a list",
}


@dataclass(frozen=True)
class ArmOutcomes:
    """What the people of each arm did.

    Attributes:
        arms: by arm and person, the lists they were shown and those they took something from.
        crossed: people who were shown lists of several arms, as after a login or another split;
            they are in no arm.
    """

    arms: Mapping[str, Mapping[str, tuple[int, int]]]
    crossed: int


@dataclass(frozen=True)
class ReadOut:
    """An experiment read out.

    Attributes:
        control: name of the arm that the others are compared with.
        sample_ratio: whether the arms have the people they should; None without any.
        comparisons: by arm and metric (`METRICS`), where both arms have two people.
        adjusted_p: of the same, Holm's p-value over all of them, for any number of looks.
        crossed: share of the people who were left out because they saw several arms.
        alpha: probability that any verdict calls a difference that is not there.
    """

    control: str
    sample_ratio: SampleRatio | None
    comparisons: Mapping[tuple[str, str], Comparison]
    adjusted_p: Mapping[tuple[str, str], float]
    crossed: float
    alpha: float

    def verdict(self, arm: str, metric: str) -> str:
        """In a word: ``higher``, ``lower`` or ``inconclusive``, over all comparisons (Holm)."""
        if self.adjusted_p[arm, metric] >= self.alpha:
            return "inconclusive"
        return "higher" if self.comparisons[arm, metric].estimate.value > 0 else "lower"


def read_arm_outcomes(
    log: EventLog,
    experiment: str,
    *,
    since: int,
    until: int,
    types: Collection[str],
    lasts: int,
) -> ArmOutcomes:
    """Read the lists of an experiment whose time is over, and what followed from them.

    Left out are lists of an arm that the caller chose, and lists to nobody in particular.

    Args:
        log: events and lists, as far as they may be used to measure.
        experiment: key of the experiment.
        since: earliest time of a list, epoch milliseconds.
        until: time at which the log ends, epoch milliseconds.
        types: of the events that say that an item of a list was taken.
        lasts: how long after a list what follows counts, milliseconds.
    """
    lists: dict[str, tuple[str, str, int, frozenset[str]]] = {}
    taken: dict[str, list[tuple[int, str]]] = {}
    marks = [name.encode() for name in types]
    position, stop = log.begin, log.end
    while position < stop:
        records = log.read(position, min(_CHUNK, stop - position))
        if not records:
            break
        for offset, payload in records:
            if (found := decode_impression(payload, offset)) is not None:
                at, person = found.event.timestamp, _person(found)
                arm = _arm(found, experiment)
                if arm is not None and person is not None and since <= at <= until - lasts:
                    identity = found.event.recommendation_id or ""
                    lists.setdefault(identity, (arm, person, at, frozenset(found.items)))
            elif any(mark in payload for mark in marks):
                _note(payload, types, taken)
        position = records[-1][0] + 1
    return _counted(lists, taken, lasts)


def read_out(outcomes: ArmOutcomes, experiment: Experiment, *, alpha: float = 0.05) -> ReadOut:
    """Compare every arm with the control, right at any number of looks.

    Args:
        outcomes: of the experiment.
        experiment: as it was split while the lists were given.
        alpha: probability that an interval ever misses the truth, each by itself, and that any
            verdict calls a difference that is not there, all together.
    """
    shares = {name: share for name, share in experiment.shares.items() if share > 0}
    people = {name: len(outcomes.arms.get(name, {})) for name in shares}
    seen = sum(people.values())
    ratio = (
        check_sample_ratio(list(people.values()), list(shares.values()))
        if seen and len(shares) > 1
        else None
    )
    control = experiment.control.name
    samples = {name: _samples(outcomes.arms.get(name, {})) for name in people}
    comparisons = {
        (name, metric): compare(samples[control][metric], samples[name][metric], alpha=alpha)
        for name in people
        for metric in METRICS
        if name != control and samples[name] and samples.get(control)
    }
    adjusted = holm([found.anytime_p for found in comparisons.values()])
    total = seen + outcomes.crossed
    return ReadOut(
        control,
        ratio,
        comparisons,
        dict(zip(comparisons, adjusted, strict=True)),
        outcomes.crossed / total if total else 0.0,
        alpha,
    )


def plain(found: ReadOut) -> dict[str, Any]:
    """A read-out for JSON: differences and intervals, no number of people."""
    return {
        "control": found.control,
        "sample_ratio_mismatch": None
        if found.sample_ratio is None
        else found.sample_ratio.mismatch,
        "crossed_share": round(found.crossed, 3),
        "comparisons": [
            {
                "arm": arm,
                "metric": metric,
                "difference": compared.estimate.value,
                "low": compared.anytime.low if np.isfinite(compared.anytime.low) else None,
                "high": compared.anytime.high if np.isfinite(compared.anytime.high) else None,
                "adjusted_p": found.adjusted_p[arm, metric],
                "verdict": found.verdict(arm, metric),
            }
            for (arm, metric), compared in found.comparisons.items()
        ],
    }


def _arm(shown: Impression, experiment: str) -> str | None:
    properties = shown.event.properties
    arm = properties.get("arm")
    if shown.forced or properties.get("experiment") != experiment or not isinstance(arm, str):
        return None
    return arm if shown.event.recommendation_id else None


def _person(shown: Impression) -> str | None:
    event = shown.event
    if event.user_id is not None:
        return event.user_id
    return None if event.device_id is None else DEVICE_PREFIX + event.device_id


def _note(payload: bytes, types: Collection[str], taken: dict[str, list[tuple[int, str]]]) -> None:
    try:
        event = event_for(decode_entry(payload), PERSONALISATION)
    except StreamingError:
        return
    if event is None or event.type not in types:
        return
    if event.recommendation_id and event.item_id:
        taken.setdefault(event.recommendation_id, []).append((event.timestamp, event.item_id))


def _counted(
    lists: Mapping[str, tuple[str, str, int, frozenset[str]]],
    taken: Mapping[str, list[tuple[int, str]]],
    lasts: int,
) -> ArmOutcomes:
    arms_of: dict[str, set[str]] = {}
    for arm, person, _, _ in lists.values():
        arms_of.setdefault(person, set()).add(arm)
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for identity, (arm, person, at, items) in lists.items():
        if len(arms_of[person]) > 1:
            continue
        followed = any(
            at <= when < at + lasts and item in items for when, item in taken.get(identity, ())
        )
        shown, took = counts.setdefault(arm, {}).get(person, (0, 0))
        counts[arm][person] = shown + 1, took + followed
    return ArmOutcomes(counts, sum(len(arms) > 1 for arms in arms_of.values()))


def _samples(people: Mapping[str, tuple[int, int]]) -> dict[str, Sample]:
    if len(people) < 2:
        return {}
    shown, took = np.array(list(people.values()), np.float64).T
    return {
        "taken_lists": Ratio.from_units(took, shown),
        "takers": Proportion(len(people), int((took > 0).sum())),
    }
