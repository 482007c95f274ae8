import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tactful_bandits.flags import (
    Features,
    compile_features,
    evaluate,
    load_flags,
    public_payload,
    remote_reasons,
)
from tactful_bandits.flags.public_form import _Hiding

SECRETS = [
    "alice@example.org",
    "bob@example.org",
    "u-4711",
    "Zürich-Nord",
    "5",
    "true",
    "null",
    "[]",
]
scalars = st.sampled_from(SECRETS) | st.sampled_from(
    [5, 5.0, 0, -0.0, 1e21, 2**53, True, False, None, "", "1e21", "0"]
)
values: st.SearchStrategy[Any] = scalars | st.lists(
    scalars | st.lists(scalars, max_size=2), max_size=3
)
values |= st.dictionaries(st.sampled_from("ab"), scalars, max_size=2)
attributes = st.dictionaries(st.sampled_from(["email", "tags", "country", "#email"]), values)
lists = st.lists(scalars, max_size=3)


def is_ordered(operand: object) -> bool:
    return isinstance(operand, str | int | float) and not isinstance(operand, bool)


def operators(depth: int) -> st.SearchStrategy[Any]:
    simple: list[st.SearchStrategy[Any]] = [
        st.fixed_dictionaries({name: scalars}) for name in ("$eq", "$ne", "$exists")
    ]
    simple.append(st.fixed_dictionaries({"$gt": scalars.filter(is_ordered)}))
    simple += [st.fixed_dictionaries({name: lists}) for name in ("$in", "$nin", "$all", "$ini")]
    simple.append(st.just({"$inGroup": "vip"}) | st.just({"$notInGroup": "vip"}))
    simple.append(st.fixed_dictionaries({"$size": st.integers(0, 3)}))
    if depth:
        inner = requirements(depth - 1)
        simple += [st.fixed_dictionaries({name: inner}) for name in ("$not", "$elemMatch")]
    return st.one_of(*simple)


def requirements(depth: int) -> st.SearchStrategy[Any]:
    return scalars | lists | operators(depth)


def conditions(depth: int) -> st.SearchStrategy[Any]:
    fields = st.dictionaries(
        st.sampled_from(["email", "tags", "country"]), requirements(1), max_size=2
    )
    if not depth:
        return fields
    inner = conditions(depth - 1)
    several = st.lists(inner, max_size=2)
    return fields | st.one_of(
        *(st.fixed_dictionaries({name: several}) for name in ("$and", "$or", "$nor")),
        st.fixed_dictionaries({"$not": inner}),
    )


def with_condition(condition: Any) -> dict[str, Any]:
    return {
        "public_attributes": ["country"],
        "groups": {"vip": ["alice@example.org", "u-4711", 5]},
        "flags": {
            "f": {
                "kind": "text",
                "owner": "Carol Owner",
                "description": "For the friends of Carol",
                "variants": {"a": "first", "b": "second"},
                "default": "a",
                "rules": [{"when": condition, "serve": "b"}],
            },
            "g": {
                "default": False,
                "prerequisites": [{"flag": "f", "variants": ["b"]}],
                "rules": [{"serve": True}],
            },
        },
    }


@settings(max_examples=120)
@given(conditions(2), st.lists(attributes, min_size=1, max_size=8))
def test_the_public_form_evaluates_alike(condition: Any, units: list[dict[str, Any]]) -> None:
    flags = load_flags(with_condition(condition))
    payload = json.loads(json.dumps(public_payload(flags, "salt-1")))
    public = Features.from_payload(payload)
    for unit in units:
        for key in ("f", "g"):
            got = evaluate(public, key, unit)
            if payload["features"][key].get("remote"):
                assert (got.value, got.source) == (None, "remote")
                assert key in remote_reasons(flags)
            else:
                assert got == evaluate(flags.features, key, unit)


EXISTS = {"email": {"$exists": "alice@example.org"}}


def leaks(payload: dict[str, Any], secrets: list[str]) -> list[str]:
    text = json.dumps(payload, ensure_ascii=False) + json.dumps(payload)
    return [secret for secret in secrets if secret in text]


@given(conditions(2))
@example(EXISTS)
def test_the_public_form_holds_no_clear_value(condition: Any) -> None:
    def private(part: Any) -> Any:  # the same condition without the public attribute
        if isinstance(part, dict):
            return {key: private(inner) for key, inner in part.items() if key != "country"}
        return [private(inner) for inner in part] if isinstance(part, list) else part

    flags = load_flags(with_condition(private(condition)))
    secrets = [*SECRETS[:4], "Carol", "friends"]
    assert leaks(public_payload(flags, "salt"), secrets) == []


def test_a_planted_leak_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = load_flags(with_condition({"email": {"$in": ["alice@example.org"]}}))
    assert leaks(compile_features(flags), SECRETS[:3]) == ["alice@example.org", "u-4711"]
    monkeypatch.setattr(_Hiding, "_hash", lambda self, name, value: value)
    assert leaks(public_payload(flags, "salt"), SECRETS[:3]) == ["alice@example.org"]


def test_salts_give_other_hashes() -> None:
    flags = load_flags(with_condition({"email": "alice@example.org"}))
    first, second = (json.dumps(public_payload(flags, salt)) for salt in ("a", "b"))
    assert first.replace('"salt": "a"', "") != second.replace('"salt": "b"', "")


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ({"email": {"$regex": "example"}}, r"$regex on email needs its clear value"),
        ({"age": {"$gt": 3}}, "list age under public_attributes"),
        ({"age": 3}, "age is private and compared with 3; write {$eq: …}"),
        ({"user.email": "x"}, "user.email is a part of a private attribute"),
        ({"$or": [{"tags": ["a"]}]}, 'tags is private and compared with ["a"]'),
    ],
)
def test_what_hashes_cannot_decide_is_remote(condition: Any, reason: str) -> None:
    flags = load_flags(with_condition(condition))
    reasons = remote_reasons(flags)
    assert reason in reasons["f"]
    assert reasons["g"] == "it needs flag 'f', which is remote"
    assert public_payload(flags, "s")["features"] == {"f": {"remote": True}, "g": {"remote": True}}


def test_public_attributes_stay_clear() -> None:
    flags = load_flags(with_condition({"country": {"$regex": "^C"}, "email": {"$eq": "x"}}))
    (rule,) = public_payload(flags, "s")["features"]["f"]["rules"]
    assert rule["condition"]["country"] == {"$regex": "^C"}
    assert list(rule["condition"]) == ["country", "#email"]
