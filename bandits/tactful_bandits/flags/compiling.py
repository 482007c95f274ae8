"""Flags compiled into the published feature format.

Holdouts become prerequisites on a generated feature, namespaces become filters, shares become
ranges. Owner, description and names of variants are left out. Only hash version 2 is used, because
version 1 correlates experiments.
"""

from typing import Any

from tactful_bandits.flags.definitions import (
    Flag,
    FlagExperiment,
    FlagHoldout,
    FlagPrerequisite,
    FlagRule,
    FlagSet,
)
from tactful_bandits.flags.draws import DEFAULT_ATTRIBUTE

_HASH_VERSION = 2

HOLDOUT = "$holdout:"
"""Prefix of the features that stand for holdouts."""


def compile_features(flags: FlagSet, *, version: int = 0, generated_ms: int = 0) -> dict[str, Any]:
    """Return the payload of all flags: ``{"version", "generated_ms", "features", "savedGroups"}``.

    Args:
        flags: Checked flags.
        version: Version of the definitions, which exposures name.
        generated_ms: Time of compilation in milliseconds since 1970.
    """
    features = {
        f"{HOLDOUT}{name}": _holdout(holdout)
        for name, holdout in flags.holdouts.items()
        if any(flag.holdout == name and flag.enabled for flag in flags.flags.values())
    }
    features.update((key, _feature(flag)) for key, flag in flags.flags.items())
    return {
        "version": version,
        "generated_ms": generated_ms,
        "features": features,
        "savedGroups": {name: list(values) for name, values in flags.groups.items()},
    }


def _holdout(holdout: FlagHoldout) -> dict[str, Any]:
    share, name = holdout.holdout.share, holdout.holdout.name
    rule = {"id": "rule-1", "force": True, "range": [0, share], **_unit(holdout.unit)}
    return {"defaultValue": False, "rules": [{**rule, "seed": f"__holdout:{name}"}]}


def _feature(flag: Flag) -> dict[str, Any]:
    default = flag.variants[flag.default]
    if not flag.enabled:
        return {"defaultValue": default, "off": True}
    parents = [*map(_parent, flag.prerequisites)]
    if flag.holdout is not None:
        # A person of the holdout gets the default, even behind a prerequisite.
        parents.insert(0, {"id": HOLDOUT + flag.holdout, "condition": {"value": False}})
    rules = []
    for number, rule in enumerate(flag.rules, start=1):
        if rule.experiment is not None and rule.experiment.design.status != "running":
            continue
        compiled: dict[str, Any] = {"id": f"rule-{number}"}
        if rule.condition:
            compiled["condition"] = dict(rule.condition)
        needed = [*parents, *map(_parent, rule.prerequisites)]
        if needed:
            compiled["parentConditions"] = needed
        compiled.update(_outcome(flag, rule))
        rules.append(compiled)
    feature: dict[str, Any] = {"defaultValue": default}
    if rules:
        feature["rules"] = rules
    return feature


def _parent(need: FlagPrerequisite) -> dict[str, Any]:
    return {"id": need.flag, "condition": dict(need.condition)}


def _outcome(flag: Flag, rule: FlagRule) -> dict[str, Any]:
    if rule.experiment is not None:
        return _experiment(flag, rule.experiment)
    assert rule.serve is not None
    forced: dict[str, Any] = {"force": flag.variants[rule.serve]}
    if rule.share < 1:
        seed = rule.seed or flag.key
        forced |= {"range": [0, rule.share], "seed": seed, **_unit(rule.unit)}
    return forced


def _experiment(flag: Flag, experiment: FlagExperiment) -> dict[str, Any]:
    design = experiment.design
    compiled: dict[str, Any] = {
        "key": design.key,
        "variations": [flag.variants[experiment.variants[arm.name]] for arm in design.arms],
        "meta": [{"key": arm.name} for arm in design.arms],
        "weights": [arm.weight for arm in design.arms],
        "coverage": design.coverage,
        **_unit(experiment.unit),
    }
    if design.seed is not None:
        compiled["seed"] = design.seed
    if design.namespace is not None:
        slice_ = [design.namespace.start, design.namespace.end]
        compiled["filters"] = [
            {
                "seed": design.namespace.seed,
                "ranges": [slice_],
                "attribute": experiment.unit,
                "hashVersion": _HASH_VERSION,
            }
        ]
    if not experiment.sticky:
        compiled["disableStickyBucketing"] = True
        return compiled
    compiled["bucketVersion"] = experiment.version
    if experiment.oldest_version:
        compiled["minBucketVersion"] = experiment.oldest_version
    if experiment.fallback_unit is not None:
        compiled["fallbackAttribute"] = experiment.fallback_unit
    return compiled


def _unit(attribute: str) -> dict[str, Any]:
    unit: dict[str, Any] = {"hashVersion": _HASH_VERSION}
    return unit if attribute == DEFAULT_ATTRIBUTE else {"hashAttribute": attribute, **unit}
