"""Check of exposures that clients claim: the same arm, from the same flags, for a known unit.

A claim is verified if all of this holds; any other one is stored as it came, and decides nothing:

- the server has issued the device's token, or the event came with a key of the scope ``ingest``;
- the version of the flags was served at the time of the exposure, or until a day before;
- the server draws the same arm for the unit; in a sticky experiment, by this version or an earlier.

Conditions on attributes are not repeated, since only the client knows them: a unit can leave an
experiment by a false attribute, but not choose its arm. So an experiment whose unit is another
attribute than the ids, such as a company, is never verified by a claim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from tactful.flags.exposures import Applied
from tactful_bandits.assignment.conditions import matches
from tactful_bandits.flags import Features, evaluate
from tactful_bandits.flags.compiling import HOLDOUT
from tactful_bandits.flags.experiments import NO_OVERRIDES, CompiledExperiment, Outcome, Situation
from tactful_bandits.flags.features import CompiledRule
from tactful_streaming.contract.log_entries import Event

GRACE_MS = 86_400_000
"""Time for which a client may use a version after the next one was served: offline pages."""

IDENTITY = frozenset({"id", "user_id", "device_id"})
"""Attributes that the request itself names: no other one can be claimed for a unit."""

_EARLY_MS = 300_000  # a client's clock may be behind by so much

Doubt = Literal[
    "incomplete", "no token", "unknown version", "wrong time", "unknown experiment", "another arm"
]
"""Reason why an exposure is not verified."""


class KnownVersion(NamedTuple):
    """A version of the flags that clients may have."""

    features: Features
    begins: int  # time of the version, epoch milliseconds
    ends: int | None  # time of the next one; None for the latest


class Proof(NamedTuple):
    """A verified exposure."""

    applied: Applied
    # document, key and arm of a sticky experiment, to be stored; None for another one
    sticky: tuple[str, str, str] | None


def check(event: Event, versions: Mapping[int, KnownVersion], *, known_unit: bool) -> Proof | Doubt:
    """Return the proof of a claimed exposure, or the reason for doubt.

    Args:
        event: of the type ``exposure``.
        versions: recent versions of the flags, by number.
        known_unit: whether the unit has a valid token or the sender is trusted.
    """
    claim = _claim(event)
    if claim is None:
        return "incomplete"
    if not known_unit:
        return "no token"
    version = versions.get(claim.version)
    if version is None:
        return "unknown version"
    at = event.timestamp if event.received_at is None else min(event.timestamp, event.received_at)
    late = version.ends is not None and at > version.ends + GRACE_MS
    if at < version.begins - _EARLY_MS or late:
        return "wrong time"
    attributes = identity_of(event.user_id, event.device_id)
    found: Doubt = "unknown experiment"
    for features, rule, experiment in _drawn_by(claim, versions):
        outcome = _draw(features, rule, experiment, attributes)
        if outcome is not None and outcome.arm is not None and outcome.arm.key == claim.arm:
            return Proof(claim, outcome.save if experiment.keeps_arms else None)
        found = "another arm"
    return found


def identity_of(user_id: str | None, device_id: str | None) -> dict[str, str]:
    """Return the attributes `id`, `user_id` and `device_id`; a user counts before a device."""
    found = {"user_id": user_id, "device_id": device_id, "id": user_id or device_id}
    return {name: value for name, value in found.items() if value is not None}


def _claim(event: Event) -> Applied | None:
    said: Mapping[str, Any] = event.properties
    experiment, arm, version = said.get("experiment"), said.get("arm"), said.get("version")
    flag = said.get("flag", experiment)
    if not (isinstance(experiment, str) and isinstance(arm, str) and isinstance(flag, str)):
        return None
    return Applied(experiment, arm, flag, version) if type(version) is int else None


def _drawn_by(
    claim: Applied, versions: Mapping[int, KnownVersion]
) -> Iterator[tuple[Features, CompiledRule, CompiledExperiment]]:
    """Yield the rules that may have given the arm: of the version, then of earlier ones.

    A unit keeps the arm of a sticky experiment when its coverage shrinks; all else that decides the
    arm stays the same in all versions (`tactful.flags.definitions.refuse_changed`).
    """
    for number in sorted((it for it in versions if it <= claim.version), reverse=True):
        features = versions[number].features
        feature = features.by_key.get(claim.flag)
        sticky = False
        for rule in () if feature is None else feature.rules:
            experiment = rule.experiment
            if experiment is not None and experiment.key == claim.experiment:
                sticky = experiment.keeps_arms
                yield features, rule, experiment
        if not sticky:
            return


def _draw(
    features: Features,
    rule: CompiledRule,
    experiment: CompiledExperiment,
    attributes: Mapping[str, str],
) -> Outcome | None:
    """Draw the arm of a unit by its ids, whatever its other attributes; None if it is held out."""
    drawn = dataclasses.replace(experiment, condition={}, parents=(), force=None)
    situation = Situation(attributes, features.groups, {}, NO_OVERRIDES)
    outcome = drawn.run(situation, lambda parents: True)
    for parent in rule.parents:
        if parent.feature.startswith(HOLDOUT):  # the ids alone decide it
            value = evaluate(features, parent.feature, attributes).value
            if not matches(parent.condition, {"value": value}, features.groups):
                return None
    return None if outcome.arm is None or outcome.arm.passthrough else outcome
