"""Unleash's published cases of constraints, segments, dependencies and names in JavaScript."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.sdk.flags.conftest import Node

pytestmark = pytest.mark.service("web")

READ = ["09", "11", "13", "14", "15", "17", "18", "21", "22"]
REFUSED = {
    "03": "gradualRolloutUserId",
    "04": "gradualRolloutSessionId",
    "05": "gradualRolloutRandom",
    "06": "remoteAddress",
    "10": "flexibleRollout",
}


def cases(shared_data: Path, number: str) -> dict[str, Any]:
    (found,) = (shared_data / "data" / "unleash").glob(f"{number}-*.json")
    document = json.loads(found.read_text("utf-8"))
    return {"tests": [], "variantTests": [], **document}


def test_published_cases(shared_data: Path, node: Node) -> None:
    count = 0
    for number in READ:
        document = cases(shared_data, number)
        found = node("unleash.mjs", document)
        for kind in ("tests", "variantTests"):
            for case, result in zip(document[kind], found[kind], strict=True):
                assert result == case["expectedResult"], (number, case["description"])
                count += 1
    assert count == 190


def test_strategies_of_unleash_are_refused_by_name(shared_data: Path, node: Node) -> None:
    for number, name in REFUSED.items():
        document = cases(shared_data, number)
        error = node("unleash.mjs", document)["error"]
        assert any(f"{each['name']}: {name}" in error for each in document["state"]["features"])


def test_another_document_is_refused(node: Node) -> None:
    states: list[Any] = [None, [], {}, {"features": {}}]
    for state in states:
        found = node("unleash.mjs", {"state": state, "tests": [], "variantTests": []})
        assert "expected an object with the list `features`" in found["error"]
