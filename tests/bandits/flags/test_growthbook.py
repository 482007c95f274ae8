"""GrowthBook's payloads converted to definitions, which must give every unit the same value."""

from collections.abc import Callable
from typing import Any

import pytest

from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags import evaluate, load_flags
from tactful_bandits.flags.growthbook import read_growthbook


def test_converted_features_give_the_published_values(published: Callable[[str], Any]) -> None:
    converted = 0
    for name, context, key, expected in published("cases-sdkjs.json")["feature"]:
        if context.get("forcedVariations") or not context.get("features"):
            continue
        conversion = read_growthbook(context)
        if key in conversion.refused or key in conversion.notes:
            continue
        converted += key in conversion.data["flags"]
        flags = load_flags(conversion.text())
        got = evaluate(flags.features, key, context.get("attributes", {}))
        assert got.value == expected["value"], name
    assert converted >= 19


PAYLOAD: dict[str, Any] = {
    "features": {
        "color": {
            "defaultValue": "grey",
            "rules": [
                {"id": "fr_1", "force": "blue", "condition": {"id": {"$inGroup": "g1"}}},
                {"force": "red", "coverage": 0.25, "hashVersion": 2, "seed": "s"},
                {
                    "key": "color-test",
                    "variations": ["grey", "blue", "grey"],
                    "ranges": [[0, 0.1], [0.2, 0.35], [0.5, 0.75]],
                    "meta": [{"key": "0", "name": "Control"}, {"key": "1"}, {"key": "2"}],
                    "filters": [{"seed": "__page", "ranges": [[0.1, 0.9]], "hashVersion": 2}],
                    "hashVersion": 2,
                    "bucketVersion": 1,
                },
            ],
        }
    },
    "savedGroups": {"g1": ["u1", "u2"]},
}


def test_every_unit_keeps_its_value_and_arm() -> None:
    conversion = read_growthbook(PAYLOAD)
    assert (conversion.refused, conversion.notes) == ({}, {})
    flags = load_flags(conversion.text())
    for number in range(3000):
        attributes = {"id": f"u{number}"}
        before = evaluate(PAYLOAD, "color", attributes)
        after = evaluate(flags.features, "color", attributes)
        if (
            before.bucket != 0.25 or before.in_experiment
        ):  # a share ends below, a coverage at its end
            assert (before.value, before.arm) == (after.value, after.arm)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"variations": [1, 2]}, "hash version 1 gives correlated arms"),
        ({"force": 1, "coverage": 0.5}, "hash version 1"),
        ({"variations": [1, 2], "hashVersion": 2, "namespace": ["n", 0, 1]}, "namespace of hash"),
        ({"variations": [1, 2], "hashVersion": 2, "filters": [{"seed": "x"}]}, "no slice of one"),
        ({"contextualVariations": [1, 2]}, "contextual bandits are not converted"),
        (
            {"variations": [1, 2], "hashVersion": 2, "meta": [{}, {"passthrough": True}]},
            "define a holdout",
        ),
        (
            {"variations": [1, 2], "hashVersion": 2, "ranges": [[0, 0.5], [0.5, 0.6]]},
            "by different shares",
        ),
        ({"variations": [1, 2], "hashVersion": 2, "weights": [0.5, 0.4]}, "must sum to 1"),
        ({"force": 1, "condition": {"a": {"$regex": "(?<n>a)"}}}, "means different things"),
        ({"force": 1, "condition": {"a": {"$inGroup": "gone"}}}, "there is no group 'gone'"),
        ({"variations": 3}, "not in GrowthBook's format"),
        ({"force": 1, "parentConditions": [{"id": []}]}, "the id of a feature is a text, not []"),
    ],
)
def test_what_cannot_be_kept_is_refused(rule: dict[str, Any], reason: str) -> None:
    child = {"defaultValue": 1, "rules": [{"force": 2, "parentConditions": [{"id": "f"}]}]}
    features = {"f": {"defaultValue": 0, "rules": [rule]}, "child": child, "other": {}}
    conversion = read_growthbook({"features": features})
    assert reason in conversion.refused["f"]
    assert conversion.refused["child"] == "it depends on 'f', which is refused"
    assert list(conversion.data["flags"]) == ["other"]


@pytest.mark.parametrize(
    ("parent", "reason"),
    [
        ({"id": "archived"}, "it depends on 'archived', which the export lacks"),
        ({"id": "child"}, "flag 'child' needs itself"),
        ({"id": "on", "condition": 3}, "expected a mapping of attributes or operators"),
    ],
)
def test_one_wrong_parent_leaves_the_other_flags(parent: dict[str, Any], reason: str) -> None:
    needy = [{"force": 2, "parentConditions": [{"id": "child"}]}]
    features = {
        "on": {"defaultValue": True},
        "child": {"defaultValue": 1, "rules": [{"force": 2, "parentConditions": [parent]}]},
        "grandchild": {"defaultValue": 1, "rules": needy},
        "sound": {
            "defaultValue": 1,
            "rules": [
                {"force": 2, "parentConditions": [{"id": "on", "condition": {"value": True}}]}
            ],
        },
    }
    conversion = read_growthbook({"features": features})
    assert reason in conversion.refused["child"]
    assert conversion.refused["grandchild"] == "it depends on 'child', which is refused"
    load_flags(conversion.text())
    assert list(conversion.data["flags"]) == ["on", "sound"]


@pytest.mark.parametrize("data", [{}, [], {"features": []}, {"encryptedFeatures": "x"}])
def test_other_formats_are_refused(data: Any) -> None:
    with pytest.raises(DefinitionError, match=r"features is missing|is encrypted"):
        read_growthbook(data)
