"""GrowthBook's published cases; `evalCondition` is in `tests/bandits/assignment`."""

from collections.abc import Callable
from typing import Any

import pytest

from tactful_bandits.assignment.hashing import bucket_ranges, choose_range, equal_weights
from tactful_bandits.flags import Evaluation, Features, Overrides, evaluate
from tactful_bandits.flags.draws import Draw, in_namespace
from tactful_bandits.flags.evaluation import parents_hold
from tactful_bandits.flags.experiments import CompiledExperiment, Situation

SOURCES = {
    "unknown": "unknownFeature",
    "default": "defaultValue",
    "cyclic": "cyclicPrerequisite",
    "force": "force",
    "experiment": "experiment",
    "prerequisite": "prerequisite",
}
CORPORA = pytest.mark.parametrize("corpus", ["cases-sdkjs.json", "cases-python-2.2.1.json"])


def overrides_of(context: dict[str, Any]) -> Overrides:
    return Overrides(
        context.get("enabled", True),
        context.get("forcedVariations", {}),
        context.get("url", ""),
        context.get("qaMode", False),
    )


@CORPORA
def test_hash(published: Callable[[str], Any], corpus: str) -> None:
    for seed, value, version, expected in published(corpus)["hash"]:
        assert Draw(seed, version=version).place(value) == expected


@CORPORA
def test_ranges_and_weights(published: Callable[[str], Any], corpus: str) -> None:
    cases = published(corpus)
    for name, arguments, expected in cases["getBucketRange"]:
        ranges = bucket_ranges(*arguments)
        assert [[round(end, 9) for end in part] for part in ranges] == [
            [round(end, 9) for end in part] for part in expected
        ], name
    for name, place, ranges, expected in cases["chooseVariation"]:
        index = choose_range(place, ranges)
        assert (-1 if index is None else index) == expected, name
    for name, unit, namespace, expected in cases["inNamespace"]:
        assert in_namespace(unit, namespace) is expected, name
    for arms, expected in cases["getEqualWeights"]:
        assert [round(weight, 8) for weight in equal_weights(arms)] == [
            round(weight, 8) for weight in expected
        ]


@CORPORA
def test_features(published: Callable[[str], Any], corpus: str) -> None:
    cases = published(corpus)["feature"]
    assert len(cases) >= 45
    for name, context, key, expected in cases:
        attributes = context.get("attributes", {})
        got = evaluate(context, key, attributes, overrides=overrides_of(context))
        shown = {
            "value": got.value,
            "on": got.on,
            "off": not got.on,
            "source": SOURCES[got.source],
        }
        assert shown == {part: expected[part] for part in shown}, name
        assert (got.rule_id or "") == expected.get("ruleId", got.rule_id or ""), name
        if "experimentResult" in expected:
            assert_same_result(got, expected["experimentResult"], name)


def assert_same_result(got: Evaluation, expected: dict[str, Any], name: str) -> None:
    assert got.value == expected["value"], name
    assert got.arm_index == expected["variationId"], name
    assert got.in_experiment is expected["inExperiment"], name
    assert got.hash_used is expected["hashUsed"], name
    assert got.unit_attribute == expected["hashAttribute"], name
    assert got.unit == str(expected["hashValue"]), name
    assert got.arm == expected["key"], name
    assert got.bucket == expected.get("bucket"), name
    assert got.sticky_used is expected.get("stickyBucketUsed", False), name


@CORPORA
def test_experiments(published: Callable[[str], Any], corpus: str) -> None:
    cases = published(corpus)["run"]
    assert len(cases) >= 70
    for name, context, data, value, in_experiment, hash_used in cases:
        features = Features.from_payload(context)
        situation = Situation(
            context.get("attributes", {}), features.groups, None, overrides_of(context)
        )
        experiment = CompiledExperiment.from_payload(data, data["key"])
        outcome = experiment.run(situation, parents_hold(features, situation))
        got = data["variations"][0] if outcome.arm is None else outcome.arm.value
        assert got == value, name
        assert (outcome.arm is not None) is in_experiment, name
        assert outcome.hash_used is hash_used, name


@CORPORA
def test_sticky_arms(published: Callable[[str], Any], corpus: str) -> None:
    cases = published(corpus)["stickyBucket"]
    assert len(cases) >= 9
    for name, context, documents, key, expected, stored in cases:
        sticky = {
            f"{one['attributeName']}||{one['attributeValue']}": dict(one["assignments"])
            for one in documents
        }
        got = evaluate(context, key, context["attributes"], sticky=sticky)
        if expected is None:
            assert not got.in_experiment, name
        else:
            assert_same_result(got, expected, name)
        if got.sticky_save is not None:
            document, assignment, arm = got.sticky_save
            sticky.setdefault(document, {})[assignment] = arm
        for document, content in stored.items():
            assert sticky[document] == content["assignments"], name
