"""GrowthBook's published cases in JavaScript, all but the three that need JavaScript's order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.sdk.flags.conftest import Node

pytestmark = pytest.mark.service("web")

DIFFERENT = {
    "missing attribute with comparison operators",
    "comparing numbers and strings",
    "comparing numbers and strings - v2",
}
"""A number is never above or below a text or a missing attribute."""
CONTEXTUAL = {"contextualBandit", "leafId", "variationWeights", "banditVersion"}
"""Metadata of a kind of experiment that only assigns by its own weights here."""


@pytest.fixture(scope="module")
def published(shared_data: Path) -> dict[str, Any]:
    found = shared_data / "data" / "growthbook" / "cases-sdkjs.json"
    return dict(json.loads(found.read_text("utf-8")))


def rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 8) if isinstance(value, float) else value


def test_conditions(published: dict[str, Any], node: Node) -> None:
    cases = published["evalCondition"]
    given = [[case[2], case[1], case[4] if len(case) > 4 else {}] for case in cases]
    found = node("evaluate.mjs", {"name": "fulfils", "cases": given})
    wrong = {case[0] for case, result in zip(cases, found, strict=True) if result != case[3]}
    assert wrong == DIFFERENT
    assert len(cases) == 248


@pytest.mark.parametrize(
    ("section", "function"),
    [
        ("hash", "bucket"),
        ("getBucketRange", "bucketRanges"),
        ("chooseVariation", "chooseArm"),
        ("inNamespace", "inNamespace"),
        ("getEqualWeights", "equalWeights"),
    ],
)
def test_draws(published: dict[str, Any], node: Node, section: str, function: str) -> None:
    cases = published[section]
    given = [case[:-1] if section in ("hash", "getEqualWeights") else case[1:-1] for case in cases]
    if section == "getBucketRange":
        given = [arguments for (arguments,) in given]
    found = node("evaluate.mjs", {"name": function, "cases": given})
    assert rounded(found) == rounded([case[-1] for case in cases])


def test_features(published: dict[str, Any], node: Node) -> None:
    cases = published["feature"]
    given = [[context, key] for _, context, key, _ in cases]
    found = node("evaluate.mjs", {"name": "feature", "cases": given})
    for (name, _, _, expected), result in zip(cases, found, strict=True):
        for part in ("experiment", "experimentResult"):
            if part in expected:
                own = expected[part].items()
                expected[part] = {key: value for key, value in own if key not in CONTEXTUAL}
        on = bool(result["value"]) or result["value"] in ([], {})
        assert {**result, "on": on, "off": not on} == expected, name


def test_experiments(published: dict[str, Any], node: Node) -> None:
    cases = published["run"]
    given = [[context, experiment] for _, context, experiment, *_ in cases]
    found = node("evaluate.mjs", {"name": "run", "cases": given})
    for (name, _, _, *expected), result in zip(cases, found, strict=True):
        assert [result[key] for key in ("value", "inExperiment", "hashUsed")] == expected, name


def test_sticky_arms(published: dict[str, Any], node: Node) -> None:
    cases = published["stickyBucket"]
    given = []
    for _, context, documents, key, _, _ in cases:
        all_of_them = [*documents, *context.get("stickyBucketAssignmentDocs", {}).values()]
        sticky = {
            f"{each['attributeName']}||{each['attributeValue']}": each for each in all_of_them
        }
        given.append([{**context, "sticky": sticky}, key])
    found = node("evaluate.mjs", {"name": "sticky", "cases": given})
    for (name, _, _, _, expected, kept), (result, arms) in zip(cases, found, strict=True):
        assert result.get("experimentResult") == expected, name
        assert {key: arms[key] for key in kept} == kept, name
