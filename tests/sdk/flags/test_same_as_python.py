"""Python and JavaScript decide the same: conditions, features, kept arms and hashed attributes."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from tests.sdk.flags.conftest import Node
from tests.sdk.flags.random_flags import RandomFlags

from tactful_bandits.assignment.conditions import matches
from tactful_bandits.flags import Evaluation, evaluate

pytestmark = pytest.mark.service("web")

SOURCES = {
    "defaultValue": "default",
    "unknownFeature": "unknown",
    "cyclicPrerequisite": "cyclic",
}
MANY = pytest.mark.slow  # reason: 20,000 conditions and 5,000 payloads; the default run has 400


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=MANY)])
def test_conditions(node: Node, count: int) -> None:
    drawn = [RandomFlags(seed) for seed in range(count)]
    cases = [[each.attributes(), each.condition(), {"g": each.many(each.scalar)}] for each in drawn]
    found = node("evaluate.mjs", {"name": "fulfils", "cases": cases})
    expected = [matches(condition, given, groups) for given, condition, groups in cases]
    different = [
        case for case, left, right in zip(cases, found, expected, strict=True) if left != right
    ]
    assert different == []
    assert count / 5 < sum(expected) < count * 4 / 5


@pytest.mark.parametrize("count", [400, pytest.param(5_000, marks=MANY)])
def test_features(node: Node, count: int) -> None:
    cases: list[tuple[dict[str, Any], str]] = []
    for seed in range(count):
        drawn = RandomFlags(seed)
        attributes = drawn.attributes()
        sticky = drawn.sticky(attributes)
        cases.append(({**drawn.payload(), "attributes": attributes, "sticky": sticky}, "a"))
    given = [[{**context, "sticky": documents(context["sticky"])}, key] for context, key in cases]
    found = node("evaluate.mjs", {"name": "sticky", "cases": given})
    experiments = 0
    for (context, key), (result, kept) in zip(cases, found, strict=True):
        expected = evaluate(context, key, context["attributes"], sticky=context["sticky"])
        assert doubles(as_python(result)) == doubles(of_python(expected)), context
        arms = {document: dict(own) for document, own in context["sticky"].items()}
        if expected.sticky_save:
            document, name, arm = expected.sticky_save
            arms.setdefault(document, {})[name] = arm
        assert {document: each["assignments"] for document, each in kept.items()} == arms
        experiments += expected.source == "experiment"
    assert experiments > count / 20


def documents(sticky: dict[str, dict[str, str]]) -> dict[str, Any]:
    return {key: {"assignments": arms} for key, arms in sticky.items()}


def doubles(values: list[Any]) -> str:
    """Return JSON text with all numbers as JavaScript writes them: it has no -0."""

    def double(text: str) -> float:
        return float(text) + 0.0

    found = json.loads(json.dumps(values), parse_int=double, parse_float=double)
    return json.dumps(found, sort_keys=True)


def as_python(result: dict[str, Any]) -> list[Any]:
    drawn = result.get("experimentResult", {})
    return [
        result["value"],
        SOURCES.get(result["source"], result["source"]),
        result["ruleId"] or None,
        result.get("experiment", {}).get("key"),
        drawn.get("key"),
        drawn.get("variationId"),
        drawn.get("inExperiment", False),
        drawn.get("bucket"),
        drawn.get("stickyBucketUsed", False),
        drawn.get("hashUsed", False),
    ]


def of_python(result: Evaluation) -> list[Any]:
    return [
        result.value,
        result.source,
        result.rule_id,
        result.experiment,
        result.arm,
        result.arm_index,
        result.in_experiment,
        result.bucket if result.experiment else None,
        result.sticky_used,
        result.hash_used,
    ]


def test_units_of_all_scripts_have_the_same_place(node: Node) -> None:
    """The hash runs over UTF-16 code units; one half of a pair alone counts as well."""
    random = Random(3)
    alphabet = "aß上\U0001f600\uffff\ud83d\u0000é"
    units = ["".join(random.choices(alphabet, k=random.randrange(1, 9))) for _ in range(500)]
    payload = {"features": {"f": {"rules": [{"variations": [0, 1], "hashVersion": 2}]}}}
    cases = [[{**payload, "attributes": {"id": unit}}, "f"] for unit in units]
    found = node("evaluate.mjs", {"name": "feature", "cases": cases})
    expected = [evaluate(payload, "f", {"id": unit}).bucket for unit in units]
    assert [result["experimentResult"]["bucket"] for result in found] == expected
