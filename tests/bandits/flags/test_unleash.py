"""Unleash's client specification, through the reader of its format."""

import json
from pathlib import Path
from typing import Any

import pytest

from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags import FlagSet, evaluate, load_flags
from tactful_bandits.flags.unleash import read_unleash

FILES = ["09", "11", "13", "14", "15", "17", "18", "21", "22"]
# Unleash draws one of four variants with another hash.
DRAWN_ANEW = {"F9.globalSegmentOn"}


def attributes_of(context: dict[str, Any]) -> dict[str, Any]:
    return {**context, **(context.get("properties") or {})}


@pytest.mark.parametrize("number", FILES)
def test_the_specification(shared_data: Path, number: str) -> None:
    (path,) = (shared_data / "data" / "unleash").glob(f"{number}-*.json")
    case = json.loads(path.read_text(encoding="utf-8"))
    conversion = read_unleash(case)
    assert conversion.refused == {}
    flags = load_flags(conversion.text())
    for test in case["tests"]:
        got = evaluate(flags.features, test["toggleName"], attributes_of(test["context"]))
        enabled = got.value["feature_enabled"] if isinstance(got.value, dict) else got.value
        # A test of a toggle that does not exist expects false.
        assert bool(enabled) is test["expectedResult"], test["description"]
    for test in case.get("variantTests", ()):
        got = evaluate(flags.features, test["toggleName"], attributes_of(test["context"]))
        if test["toggleName"] in DRAWN_ANEW:
            assert got.in_experiment and got.value["enabled"]
        else:
            assert variant_of(got.value) == test["expectedResult"], test["description"]


def variant_of(value: Any) -> Any:
    """The variant object of a toggle that may have no variants at all."""
    if isinstance(value, dict):
        return value
    return {"name": "disabled", "enabled": False, "feature_enabled": value}


def convert(*strategies: dict[str, Any], **more: Any) -> FlagSet:
    toggle = {"name": "t", "enabled": True, "strategies": list(strategies), **more}
    conversion = read_unleash({"features": [toggle]})
    assert conversion.refused == {}
    return conversion.flag_set()


@pytest.mark.parametrize(
    "name", ["gradualRolloutRandom", "remoteAddress", "applicationHostname", "ourOwn"]
)
def test_other_strategies_are_refused_by_name(name: str) -> None:
    toggles = [
        {"name": "a", "enabled": True, "strategies": [{"name": "default"}, {"name": name}]},
        {"name": "b", "enabled": True, "strategies": [], "dependencies": [{"feature": "a"}]},
        {"name": "c", "enabled": True, "strategies": []},
    ]
    conversion = read_unleash({"features": toggles})
    assert name in conversion.refused["a"]
    assert conversion.refused["b"] == "it depends on 'a', which is refused"
    assert list(conversion.data["flags"]) == ["c"]


def test_a_rollout_reaches_its_share() -> None:
    flags = convert({"name": "flexibleRollout", "parameters": {"rollout": "30"}})
    on = [evaluate(flags.features, "t", {"userId": f"u{n}"}).value for n in range(2000)]
    assert 0.26 < sum(on) / len(on) < 0.34
    with_random = {"rollout": "30", "stickiness": "random"}
    conversion = read_unleash(
        {
            "features": [
                {
                    "name": "t",
                    "strategies": [{"name": "flexibleRollout", "parameters": with_random}],
                }
            ]
        }
    )
    assert "choose an attribute" in conversion.refused["t"]


def test_variants_keep_their_weights_and_overrides() -> None:
    variants = [
        {"name": "red", "weight": 900, "overrides": [{"contextName": "vip", "values": ["yes"]}]},
        {"name": "blue", "weight": 100, "payload": {"type": "string", "value": "b"}},
    ]
    flags = convert({"name": "default"}, variants=variants)
    names = [evaluate(flags.features, "t", {"userId": f"u{n}"}).value["name"] for n in range(2000)]
    assert 0.07 < names.count("blue") / len(names) < 0.13
    assert evaluate(flags.features, "t", {"vip": "yes"}).value["name"] == "red"
    nobody = {"name": "disabled", "enabled": False, "feature_enabled": True}
    assert evaluate(flags.features, "t", {}).value == nobody


@pytest.mark.parametrize("data", [{}, [], {"features": {}}, {"state": 3}])
def test_other_formats_are_refused(data: Any) -> None:
    with pytest.raises(DefinitionError, match="not Unleash's format"):
        read_unleash(data)
