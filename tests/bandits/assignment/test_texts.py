import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_bandits.assignment.texts import as_json, as_text, compare_texts, is_true, number_text


# The results of `String(number)` in Node 18.
@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (5.0, "5"),
        (1e-7, "1e-7"),
        (0.000001, "0.000001"),
        (1.5e-9, "1.5e-9"),
        (1e16, "10000000000000000"),
        (123456789012345680000.0, "123456789012345680000"),
        (1e21, "1e+21"),
        (-1.25e300, "-1.25e+300"),
        (5e-324, "5e-324"),
        (0.1 + 0.2, "0.30000000000000004"),
        (2**53 + 1, "9007199254740992"),
        (10**400, "null"),
        (math.nan, "null"),
    ],
)
def test_numbers_are_written_as_javascript_does(number: float, text: str) -> None:
    assert number_text(number) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_read_back(number: float) -> None:
    assert float(number_text(number)) == number


def test_texts_of_other_values() -> None:
    assert as_text("a") == "a" and as_json("a") == '"a"'
    assert as_json([True, None, {"b": 1.0, "a": "é"}]) == '[true,null,{"a":"é","b":1}]'
    assert as_json("\ud83d") == '"\\ud83d"' == json.dumps("\ud83d")


def test_order_is_that_of_utf16() -> None:
    assert compare_texts("\uffff", "😊") == 1  # its first code unit is d83d
    assert compare_texts("a", "b") == -1
    assert compare_texts("é", "é") == 0


@pytest.mark.parametrize(
    ("value", "true"), [([], True), ({}, True), (math.nan, False), ("0", True), (0, False)]
)
def test_truth_is_that_of_javascript(value: object, true: bool) -> None:
    assert is_true(value) is true
