"""Reasons in words: why a unit gets a value, and which units a rule reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tactful.schemas.experiments.flags import AssignedFlag, FlagRule, FlagWhyStep
from tactful_bandits.assignment.conditions import matches
from tactful_bandits.flags import Evaluation, Features, StickyArms, evaluate
from tactful_bandits.flags.compiling import HOLDOUT
from tactful_bandits.flags.experiments import NO_OVERRIDES, Parent, Situation
from tactful_bandits.flags.features import CompiledRule

_WORDS = {
    "default": "no rule applies",
    "unknown": "no flag has this key",
    "cyclic": "its prerequisites form a circle",
    "prerequisite": "a prerequisite does not hold",
    "remote": "only the server evaluates this flag",
    "off": "the flag is killed",
}
_OPERATORS = {
    "$eq": "is",
    "$ne": "is not",
    "$in": "is one of",
    "$nin": "is none of",
    "$gt": ">",
    "$gte": "≥",
    "$lt": "<",
    "$lte": "≤",
    "$veq": "is version",
    "$vne": "is not version",
    "$vgt": "> version",
    "$vgte": "≥ version",
    "$vlt": "< version",
    "$vlte": "≤ version",
    "$regex": "matches",
    "$inGroup": "is in the group",
    "$notInGroup": "is not in the group",
}


def assigned(result: Evaluation) -> AssignedFlag:
    """Return an evaluation as a message."""
    reason = _WORDS.get(result.source) or f"{result.rule_id or 'a rule'} applies"
    if result.source == "experiment":
        how = "keeps" if result.sticky_used else "was drawn for"
        reason = f"the unit {how} arm {result.arm} of {result.experiment}"
    return AssignedFlag(
        value=result.value,
        source=result.source,
        rule=result.rule_id,
        experiment=result.experiment,
        arm=result.arm,
        reason=reason,
    )


def steps(
    features: Features, key: str, attributes: Mapping[str, Any], sticky: StickyArms | None
) -> list[FlagWhyStep]:
    """Return the rules that are tried for a unit, up to the one that gives the value."""
    feature = features.by_key.get(key)
    found: list[FlagWhyStep] = []
    if feature is None or feature.off or feature.remote:
        return found
    derived = features.with_hashes(attributes)
    situation = Situation(derived, features.groups, sticky, NO_OVERRIDES)
    for number, rule in enumerate(feature.rules, 1):
        obstacle = next(_obstacles(features, rule, situation), None)
        name = rule.id or f"rule {number}"
        found.append(FlagWhyStep(rule=name, applies=obstacle is None, why=obstacle or "applies"))
        if obstacle is None:
            break
    return found


def rules_in_words(feature: Mapping[str, Any]) -> list[FlagRule]:
    """Describe the rules of a compiled feature."""
    return [
        FlagRule(
            id=str(rule.get("id") or f"rule {number}"), words=_described(rule), rule=dict(rule)
        )
        for number, rule in enumerate(feature.get("rules") or (), 1)
    ]


def condition_in_words(condition: Mapping[str, Any]) -> str:
    """Describe a condition: ``country is one of "CH", "AT" and plan is "pro"``."""
    parts = []
    for name, wanted in condition.items():
        if name in ("$or", "$and") and isinstance(wanted, Sequence):
            joined = f" {name[1:]} ".join(f"({condition_in_words(part)})" for part in wanted)
            parts.append(joined if len(condition) == 1 else f"({joined})")
        elif isinstance(wanted, Mapping) and wanted.keys() <= _OPERATORS.keys():
            parts += [f"{name} {_compared(op, value)}" for op, value in wanted.items()]
        elif name.startswith("$") or isinstance(wanted, Mapping):
            parts.append(f"{name} {_text(wanted)}")
        else:
            parts.append(f"{name} is {_text(wanted)}")
    return " and ".join(parts)


def _obstacles(features: Features, rule: CompiledRule, situation: Situation) -> Iterator[str]:
    """Yield the reasons why a rule does not apply to a unit."""
    attributes, groups = situation.attributes, situation.groups
    for parent in rule.parents:
        if not _holds(features, parent, situation):
            yield _barred(parent.feature)
    if not all(part.holds(attributes) for part in rule.filters):
        yield "the unit is in another part of the namespace"
    if rule.condition and not matches(rule.condition, attributes, groups):
        yield f"the condition does not hold: {condition_in_words(rule.condition)}"
    if rule.forces and rule.rollout is not None:
        unit = rule.rollout.draw.unit(attributes)
        place = None if unit is None else rule.rollout.draw.place(unit[1])
        if place is None:
            yield f"the unit has no attribute {rule.rollout.draw.attribute}"
        elif not rule.rollout.includes(place):
            yield f"the place {place:.4f} of the unit is beyond the coverage"
    elif not rule.forces and rule.experiment is None:
        yield "the rule gives no value"
    elif rule.experiment is not None:
        outcome = rule.experiment.run(situation, lambda parents: True)
        if outcome.arm is None:
            unit = rule.experiment.draw.unit(attributes)
            missing = f"the unit has no attribute {rule.experiment.draw.attribute}"
            yield missing if unit is None else "the unit is outside the coverage of the experiment"
        elif outcome.arm.passthrough:
            yield "its arm leaves the value to the next rules"


def _holds(features: Features, parent: Parent, situation: Situation) -> bool:
    result = evaluate(features, parent.feature, situation.attributes, sticky=situation.sticky)
    return matches(parent.condition, {"value": result.value}, situation.groups)


def _described(rule: Mapping[str, Any]) -> str:
    who = condition_in_words(rule.get("condition") or {}) or "everyone"
    for parent in rule.get("parentConditions") or ():
        who += _gate(str(parent.get("id")), parent.get("condition") or {})
    if rule.get("filters") or rule.get("namespace"):
        who += "; in a part of a namespace"
    begin, end = rule.get("range") or (0.0, rule.get("coverage", 1.0))
    if end - begin < 1:
        who += f"; {end - begin:.4g} of the units"
    if "variations" not in rule or "force" in rule:
        return f"{who}: {_text(rule.get('force'))}"
    arms = [arm.get("key") for arm in rule.get("meta") or ()]
    values = rule["variations"]
    named = arms if len(arms) == len(values) else map(str, range(len(values)))
    listed = ", ".join(f"{name} {_text(it)}" for name, it in zip(named, values, strict=True))
    return f"{who}: experiment {rule.get('key', '')} with {listed}"


def _barred(flag: str) -> str:
    if flag.startswith(HOLDOUT):
        return f"the unit is in the holdout {flag.removeprefix(HOLDOUT)}"
    return f"the prerequisite {flag} does not hold"


def _gate(flag: str, condition: Mapping[str, Any]) -> str:
    if flag.startswith(HOLDOUT):
        return f"; not in the holdout {flag.removeprefix(HOLDOUT)}"
    return f"; only if {flag} {condition_in_words(condition)}"


def _compared(operator: str, value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        operator = {"$in": "$eq", "$nin": "$ne"}.get(operator, operator)
    return f"{_OPERATORS[operator]} {_listed(value)}"


def _listed(value: Any) -> str:
    return ", ".join(map(_text, value)) if isinstance(value, list) else _text(value)


def _text(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:79]}…"
