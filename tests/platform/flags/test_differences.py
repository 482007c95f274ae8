"""Differences between versions of flags, line by line."""

from __future__ import annotations

from tactful.flags.differences import differences, fingerprints


def test_each_difference_has_its_place() -> None:
    before = {
        "kept": {"default": "off"},
        "gone": {"default": "off"},
        "changed": {"default": "off", "rules": [{"serve": "on", "share": 0.1}, {"serve": "on"}]},
    }
    after = {
        "kept": {"default": "off"},
        "added": {"default": "off"},
        "changed": {"default": "off", "owner": "ann", "rules": [{"serve": "on", "share": 0.5}]},
    }
    found = {it.flag: (it.change, it.lines) for it in differences(before, after)}
    assert found == {
        "added": ("added", []),
        "gone": ("removed", []),
        "changed": (
            "changed",
            [
                "rules[0].share: 0.1 → 0.5",
                'rules[1]: {"serve":"on"} → (none)',
                'owner: (none) → "ann"',
            ],
        ),
    }
    assert differences(after, after) == []
    (number,) = differences({"a": {"value": 1}}, {"a": {"value": True}})
    assert number.lines == ["value: 1 → true"], "1 and true are equal in Python"


def test_a_fingerprint_is_of_all_that_decides_an_arm() -> None:
    rule = {"key": "e", "variations": [False, True], "weights": [0.5, 0.5], "coverage": 0.1}
    rule |= {"meta": [{"key": "a"}, {"key": "b"}]}
    first = fingerprints({"flag": {"rules": [rule]}})
    assert first.keys() == {"e", "e\nflag"}
    for same in ({"coverage": 1.0}, {"condition": {"a": 1}}, {"id": "x"}):
        assert fingerprints({"flag": {"rules": [rule | same]}}) == first
    for other in ({"weights": [0.4, 0.6]}, {"seed": "s"}, {"meta": [{"key": "a"}, {"key": "c"}]}):
        assert fingerprints({"flag": {"rules": [rule | other]}})["e"] != first["e"]
    values = fingerprints({"flag": {"rules": [rule | {"variations": [True, False]}]}})
    assert values["e"] == first["e"]
    assert values["e\nflag"] != first["e\nflag"]
    phase = fingerprints({"flag": {"rules": [rule | {"bucketVersion": 2}]}})
    assert phase.keys() == {"e version 2", "e version 2\nflag"}
