"""Damaged definitions, payloads and exports end with a definition error, and nothing else."""

import contextlib
import copy
import random
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags import (
    Features,
    compile_features,
    evaluate,
    evaluate_all,
    load_flags,
    public_payload,
    read_growthbook,
    read_unleash,
)

DEFINITIONS: dict[str, Any] = {
    "public_attributes": ["country"],
    "groups": {"staff": ["u-1", 2]},
    "holdouts": {"h": {"share": 0.1}},
    "flags": {
        "a": {
            "default": "off",
            "holdout": "h",
            "expires": "2027-01-01",
            "rules": [
                {"when": {"id": {"$inGroup": "staff"}, "x": {"$regex": "^a"}}, "serve": "on"},
                {
                    "when": {"$or": [{"v": {"$semver": {"$gt": "1.0.0"}}}]},
                    "serve": "on",
                    "share": 0.5,
                },
                {
                    "experiment": {
                        "key": "e",
                        "arms": ["off", {"variant": "on", "name": "b"}],
                        "coverage": 0.5,
                        "namespace": {"name": "n", "start": 0, "end": 0.5},
                        "sticky": True,
                        "version": 1,
                    }
                },
            ],
        },
        "b": {
            "kind": "json",
            "variants": {"x": {"y": [1, None]}, "z": 3},
            "default": "x",
            "prerequisites": [{"flag": "a", "variants": ["on"]}],
            "rules": [{"serve": "z", "prerequisites": [{"flag": "a", "when": {"value": True}}]}],
        },
    },
}
TOGGLES: dict[str, Any] = {
    "features": [
        {
            "name": "t",
            "enabled": True,
            "description": "d",
            "dependencies": [{"feature": "u", "enabled": True, "variants": ["v"]}],
            "strategies": [
                {
                    "name": "flexibleRollout",
                    "parameters": {"rollout": "50", "stickiness": "userId"},
                    "constraints": [{"contextName": "c", "operator": "IN", "values": ["a"]}],
                    "segments": [1],
                }
            ],
        },
        {
            "name": "u",
            "enabled": True,
            "strategies": [{"name": "default"}],
            "variants": [{"name": "v", "weight": 1}, {"name": "w", "weight": 2}],
        },
    ],
    "segments": [
        {"id": 1, "constraints": [{"contextName": "c", "operator": "REGEX", "value": "a"}]}
    ],
}
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.sampled_from(["", "on", "a", "$x", "#x", "(", "\ud800", "t", "2027-01-01"]),
    st.lists(st.sampled_from(["a", 1, None, {}]), max_size=2),
    st.dictionaries(st.sampled_from(["$in", "a", "flag", "$not"]), st.sampled_from([1, "a", []])),
)


def damaged(data: Any, rng: random.Random, junk: Any) -> Any:
    """Replace, remove or add one part somewhere."""
    if isinstance(data, dict) and data and rng.random() < 0.85:
        key = rng.choice(list(data))
        return {**data, key: damaged(data[key], rng, junk)}
    if isinstance(data, list) and data and rng.random() < 0.85:
        index = rng.randrange(len(data))
        return [*data[:index], damaged(data[index], rng, junk), *data[index + 1 :]]
    if isinstance(data, dict) and rng.random() < 0.5:
        return {**data, rng.choice(["when", "key", "share", "x"]): junk}
    return junk


seeds = st.integers(0, 2**32)


@settings(max_examples=120)
@given(seeds, JUNK, st.dictionaries(st.sampled_from(["id", "x", "v"]), JUNK))
def test_definitions(seed: int, junk: Any, attributes: dict[str, Any]) -> None:
    data = damaged(copy.deepcopy(DEFINITIONS), random.Random(seed), junk)
    try:
        flags = load_flags(data)
    except DefinitionError as error:
        assert re.match(r"flags(:\d+)?: ", str(error))
        return
    full = evaluate_all(flags.features, attributes)
    public = evaluate_all(public_payload(flags, "s"), attributes)
    for key, result in full.items():
        assert public[key].source == "remote" or public[key] == result


@settings(max_examples=120)
@given(seeds, JUNK, st.dictionaries(st.sampled_from(["id", "x", "v"]), JUNK))
def test_payloads(seed: int, junk: Any, attributes: dict[str, Any]) -> None:
    payload = public_payload(load_flags(DEFINITIONS), "s")
    data = damaged(payload, random.Random(seed), junk)
    with contextlib.suppress(DefinitionError):
        evaluate_all(Features.from_payload(data), attributes, sticky={})
        evaluate(data, "a", attributes)


@settings(max_examples=80)
@given(seeds, JUNK)
def test_exports_of_other_products(seed: int, junk: Any) -> None:
    rng = random.Random(seed)
    for read, data in (
        (read_unleash, TOGGLES),
        (read_growthbook, compile_features(load_flags(DEFINITIONS))),
    ):
        with contextlib.suppress(DefinitionError):
            conversion = read(damaged(copy.deepcopy(data), rng, junk))
            load_flags(conversion.text())
