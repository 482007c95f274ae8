"""Cases with Python's results (`tests/bandits/flags/generate_cases.py`), evaluated in Node."""

from __future__ import annotations

from typing import Any

import pytest
from tests.bandits.flags.generate_cases import generate
from tests.sdk.flags.conftest import Node

SOURCES = {"unknownFeature": "unknown", "defaultValue": "default", "cyclicPrerequisite": "cyclic"}
# Seed 5 with 3,000 cases has shown no difference either.
SEED, COUNT = 7, 400


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Any]]:
    return generate(SEED, COUNT)


def test_conditions_and_patterns(node: Node, cases: dict[str, list[Any]]) -> None:
    given = [
        [attributes, condition, groups] for condition, attributes, groups, _ in cases["conditions"]
    ]
    given += [
        [{"a": text}, {"a": {"$regexi" if ignores else "$regex": pattern}}, {}]
        for pattern, text, ignores, _ in cases["patterns"]
    ]
    expected = [case[-1] for case in cases["conditions"] + cases["patterns"]]
    got = node("evaluate.mjs", {"name": "fulfils", "cases": given})
    differing = [
        case for case, held, holds in zip(given, got, expected, strict=True) if held != holds
    ]
    assert differing == []
    assert COUNT / 10 < sum(expected) < 2 * COUNT * 0.9


def test_features(node: Node, cases: dict[str, list[Any]]) -> None:
    given = []
    for case in cases["features"]:
        context = {**case["payload"], "attributes": case["attributes"]}
        context["forcedVariations"] = case["forced"]
        if case["sticky"] is not None:
            context["sticky"] = {
                name: {"assignments": arms} for name, arms in case["sticky"].items()
            }
        given.append([context, case["key"]])
    got = node("evaluate.mjs", {"name": "feature", "cases": given})
    for case, result in zip(cases["features"], got, strict=True):
        expected = case["evaluation"]
        drawn = result.get("experimentResult") or {}
        assert result.get("value") == expected["value"]
        assert SOURCES.get(result["source"], result["source"]) == expected["source"]
        assert (result.get("ruleId") or None) == expected["rule_id"]
        assert drawn.get("key") == expected["arm"]
        assert drawn.get("bucket") == (expected["bucket"] if drawn else None)
        assert drawn.get("stickyBucketUsed", False) is expected["sticky_used"]
    sources = {case["evaluation"]["source"] for case in cases["features"]}
    assert sources >= {"default", "experiment", "force", "off", "remote"}
