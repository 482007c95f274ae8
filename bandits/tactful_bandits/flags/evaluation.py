"""Evaluation of flags: the value for one unit, and the rule that gave it.

```python
features = Features.from_payload({"features": {"new-cart": {"defaultValue": False, "rules": [
    {"force": True, "condition": {"country": {"$in": ["CH", "AT"]}}},
]}}})
evaluate(features, "new-cart", {"id": "u-7", "country": "CH"}).value        # True
```

Evaluation is a pure function of payload, attributes and sticky arms: no storage, no network, the
same result in Python and in the browser client. It never fails on bad attributes.

Source: GrowthBook's SDK specification 0.8.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from tactful_bandits.assignment.conditions import matches
from tactful_bandits.assignment.texts import is_true
from tactful_bandits.flags.experiments import (
    NO_OVERRIDES,
    Outcome,
    Overrides,
    Parent,
    Situation,
)
from tactful_bandits.flags.features import CompiledRule, Feature, Features
from tactful_bandits.flags.sticky import StickyArms

Source = Literal[
    "default", "force", "experiment", "unknown", "cyclic", "prerequisite", "remote", "off"
]


class Evaluation(msgspec.Struct, frozen=True, gc=False):
    """The value of a flag for one unit.

    Attributes:
        flag: Key of the flag.
        value: A JSON value; None for an unknown or remote flag and behind a failed gate.
        source: The reason: `default` (no rule applied), `force` (a rule's value), `experiment`,
            `unknown` (no such flag), `cyclic` (prerequisites form a circle), `prerequisite` (a gate
            failed), `remote` (only the server evaluates this flag), `off` (the flag is disabled).
        rule_id: Id of the rule that gave the value, or None.
        experiment: Key of the experiment that gave the value, or None.
        arm: Name of its arm, or None.
        arm_index: Position of the arm, from 0, or None.
        in_experiment: Whether the unit takes part in the experiment.
        bucket: Place of the unit in [0, 1) in the draw that decided, or None.
        sticky_used: Whether the unit keeps an arm from before.
        hash_used: Whether the hash decided; false for a forced arm, which no analysis may count.
        unit_attribute: Attribute that identified the unit in the draw, or None.
        unit: Its text, or None.
        sticky_save: Sticky arm to store (key of the document, key of the assignment, arm), or None.
    """

    flag: str
    value: Any
    source: Source
    rule_id: str | None = None
    experiment: str | None = None
    arm: str | None = None
    arm_index: int | None = None
    in_experiment: bool = False
    bucket: float | None = None
    sticky_used: bool = False
    hash_used: bool = False
    unit_attribute: str | None = None
    unit: str | None = None
    sticky_save: tuple[str, str, str] | None = None

    @property
    def on(self) -> bool:
        """Whether the value counts as true in JavaScript: lists and mappings do, even empty."""
        return is_true(self.value)


def evaluate(
    features: Features | Mapping[str, Any],
    key: str,
    attributes: Mapping[str, Any],
    *,
    sticky: StickyArms | None = None,
    overrides: Overrides = NO_OVERRIDES,
) -> Evaluation:
    """Evaluate one flag.

    Args:
        features: Compiled features, or a payload, which is compiled for this call.
        key: Key of the flag.
        attributes: Attributes of the unit: texts, numbers, booleans, lists, mappings or None.
        sticky: Arms that units had before (`tactful_bandits.flags.sticky`); None keeps no arms.
        overrides: Forced arms, for previews.
    """
    if not isinstance(features, Features):
        features = Features.from_payload(features)
    derived = features.with_hashes(attributes)
    situation = Situation(derived, features.groups, sticky, overrides)
    return _Evaluator(features, situation).feature(key, ())


def evaluate_all(
    features: Features | Mapping[str, Any],
    attributes: Mapping[str, Any],
    keys: Iterable[str] | None = None,
    *,
    sticky: StickyArms | None = None,
    overrides: Overrides = NO_OVERRIDES,
) -> dict[str, Evaluation]:
    """Evaluate several flags, by default all but generated ones (their keys begin with ``$``)."""
    if not isinstance(features, Features):
        features = Features.from_payload(features)
    derived = features.with_hashes(attributes)
    evaluator = _Evaluator(features, Situation(derived, features.groups, sticky, overrides))
    if keys is None:
        keys = (key for key in features.by_key if not key.startswith("$"))
    return {key: evaluator.feature(key, ()) for key in keys}


def parents_hold(features: Features, situation: Situation) -> Callable[[Sequence[Parent]], bool]:
    """Return a function that evaluates the prerequisites of an experiment outside any feature."""
    evaluator = _Evaluator(features, situation)
    return lambda parents: evaluator.parents_hold(parents, ())


@dataclass(frozen=True, slots=True)
class _Evaluator:
    """Evaluates features in one situation; `path` holds the features that ask for a value."""

    features: Features
    situation: Situation
    known: dict[str, Evaluation] = field(default_factory=dict)

    def feature(self, key: str, path: tuple[str, ...]) -> Evaluation:
        if key in path:
            return Evaluation(key, None, "cyclic")
        result = self.known.get(key)
        if result is None:
            result = self._computed(key, path)
            # A circle makes all results on it cyclic; any other result is the same on all paths.
            # Without this, flags that need two others each would take 2ⁿ steps.
            if result.source != "cyclic":
                self.known[key] = result
        return result

    def _computed(self, key: str, path: tuple[str, ...]) -> Evaluation:
        feature = self.features.by_key.get(key)
        if feature is None:
            return Evaluation(key, None, "unknown")
        if feature.remote:
            return Evaluation(key, None, "remote")
        if feature.off:
            return Evaluation(key, feature.default, "off")
        for rule in feature.rules:
            result = self._rule(feature, rule, (*path, key))
            if result is not None:
                return result
        return Evaluation(key, feature.default, "default")

    def _rule(
        self, feature: Feature, rule: CompiledRule, path: tuple[str, ...]
    ) -> Evaluation | None:
        """Return the result of a rule, or None to go on with the next."""
        for parent in rule.parents:
            failure = self._failure(parent, path)
            if failure == "cyclic" or failure == "remote":
                return Evaluation(feature.key, None, failure)
            if failure is not None:
                return Evaluation(feature.key, None, "prerequisite") if parent.gate else None
        if not all(part.holds(self.situation.attributes) for part in rule.filters):
            return None
        if rule.forces:
            return self._forced(feature, rule)
        if rule.experiment is None:
            return None
        outcome = rule.experiment.run(
            self.situation, lambda parents: self.parents_hold(parents, path)
        )
        if outcome.arm is None or outcome.arm.passthrough:
            return None
        return _drawn(feature.key, rule, outcome)

    def _forced(self, feature: Feature, rule: CompiledRule) -> Evaluation | None:
        situation = self.situation
        if rule.condition and not matches(rule.condition, situation.attributes, situation.groups):
            return None
        if rule.rollout is None:
            return Evaluation(feature.key, rule.value, "force", rule.id)
        identity = rule.rollout.draw.unit(situation.attributes)
        place = None if identity is None else rule.rollout.draw.place(identity[1])
        if identity is None or place is None or not rule.rollout.includes(place):
            return None
        return Evaluation(
            feature.key,
            rule.value,
            "force",
            rule.id,
            bucket=place,
            unit_attribute=identity[0],
            unit=identity[1],
        )

    def _failure(self, parent: Parent, path: tuple[str, ...]) -> Source | None:
        """Return the reason why a prerequisite does not hold, or None."""
        result = self.feature(parent.feature, path)
        if result.source in ("cyclic", "remote"):
            return result.source
        holds = matches(parent.condition, {"value": result.value}, self.situation.groups)
        return None if holds else "prerequisite"

    def parents_hold(self, parents: Sequence[Parent], path: tuple[str, ...]) -> bool:
        return all(self._failure(parent, path) is None for parent in parents)


def _drawn(key: str, rule: CompiledRule, outcome: Outcome) -> Evaluation:
    experiment, arm = rule.experiment, outcome.arm
    assert experiment is not None and arm is not None
    return Evaluation(
        key,
        arm.value,
        "experiment",
        rule.id,
        experiment.key,
        arm.key,
        outcome.index,
        True,
        outcome.place,
        outcome.sticky_used,
        outcome.hash_used,
        outcome.attribute,
        outcome.unit,
        outcome.save,
    )
