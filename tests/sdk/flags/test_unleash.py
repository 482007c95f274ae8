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
    documents = [cases(shared_data, number) for number in READ]
    count = 0
    for document, found in zip(documents, node("unleash.mjs", documents), strict=True):
        for kind in ("tests", "variantTests"):
            for case, result in zip(document[kind], found[kind], strict=True):
                assert result == case["expectedResult"], (document["name"], case["description"])
                count += 1
    assert count == 190


def test_strategies_of_unleash_are_refused_by_name(shared_data: Path, node: Node) -> None:
    documents = [cases(shared_data, number) for number in REFUSED]
    answers = node("unleash.mjs", documents)
    for document, found, name in zip(documents, answers, REFUSED.values(), strict=True):
        error = found["error"]
        assert any(f"{each['name']}: {name}" in error for each in document["state"]["features"])


def test_another_document_is_refused(node: Node) -> None:
    states: list[Any] = [None, [], {}, {"features": {}}]
    for found in node("unleash.mjs", [{"state": state} for state in states]):
        assert "expected an object with the list `features`" in found["error"]
