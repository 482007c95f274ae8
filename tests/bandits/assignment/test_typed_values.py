from typing import Any

import pytest

from tactful_bandits.assignment.conditions import matches, require_condition
from tactful_bandits.assignment.typed_values import read_instant, read_number, read_semver
from tactful_bandits.errors import DefinitionError

# The order of section 11 of semver.org 2.0.0.
PRECEDENCE = [
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0",
]


def test_versions_have_the_order_of_their_specification() -> None:
    keys = [read_semver(version) for version in PRECEDENCE]
    assert None not in keys
    assert sorted(keys, key=lambda key: key or ()) == keys
    assert read_semver("1.0.0+b1") == read_semver("1.0.0+b2") == read_semver("1.0.0")


@pytest.mark.parametrize(
    "text", ["v1.0.0", "1.0", "1.0.0.0", "01.0.0", "1.0.0-01", "1.0.0-", "", 1]
)
def test_other_versions_are_unreadable(text: Any) -> None:
    assert read_semver(text) is None


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        ("1970-01-01", 0),
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T02:00:00.5+02:00", 500),
        ("1969-12-31T23:59:59.999999", -1),
        (12.5, 12.5),
        ("2027-02-29", None),
        ("2027-1-1", None),
        ("2027-01-01T25:00", None),
        (True, None),
        (None, None),
    ],
)
def test_instants(value: Any, milliseconds: float | None) -> None:
    assert read_instant(value) == milliseconds


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *[("12", 12), (" 1.5e3\n", 1500), (".5", 0.5), ("0x10", None), ("", None), ("nan", None)],
        *[("1e999", None), ("٣", None), ("1_0", None), (True, None), ([1], None), (10**400, None)],
    ],
)
def test_numbers(value: Any, number: float | None) -> None:
    assert read_number(value) == number


def test_networks() -> None:
    condition = {"ip": {"$cidr": ["10.0.0.1/8", "2001:db8::/32", "nonsense", 5]}}
    assert matches(condition, {"ip": "10.255.0.1"})
    assert matches(condition, {"ip": "2001:db8:ffff::1"})
    assert not matches(condition, {"ip": "11.0.0.1"})
    assert not matches(condition, {"ip": "010.0.0.1"})
    assert not matches(condition, {"ip": 167772161})


@pytest.mark.parametrize(
    ("operand", "message"),
    [
        ({"$gt": "x"}, "'x' cannot be read"),
        ({"$in": [1]}, "expected one of"),
        ({}, "expected comparisons"),
        (5, "expected comparisons"),
    ],
)
def test_wrong_comparisons_are_refused(operand: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        require_condition("c", {"a": {"$number": operand}})
