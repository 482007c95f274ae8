"""Places in a message."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.sources.places import is_blank, parse_place, plain_name, read_value

MESSAGE = {
    "userId": "ada",
    "context": {"page": {"path": "/tea"}},
    "products": [{"sku": "a"}, {"sku": "b"}],
    "traits": {"first name": "Ada", "a.b": 1, "plan": None},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("userId", "ada"),
        ("context.page.path", "/tea"),
        ("products.1.sku", "b"),
        ("products.2.sku", None),
        ("products.-1.sku", None),
        ('traits."first name"', "Ada"),
        ('traits."a.b"', 1),
        ("userId.length", None),
        ("nothing.at.all", None),
        (".sku", "own"),
        (".", {"sku": "own"}),
    ],
)
def test_what_stands_there(text: str, value: Any) -> None:
    assert parse_place(text).read(MESSAGE, {"sku": "own"}) == value


@pytest.mark.parametrize(
    "text", ["", " ", "a..b", "a.", "..a", 'a"b"', '"a', "a b", '""', "a" + ".b" * 16]
)
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(ValueError, match="no place"):
        parse_place(text)


@given(st.lists(st.text(min_size=1).filter(lambda it: '"' not in it), min_size=1, max_size=8))
def test_quoted_names_reach_any_field(steps: list[str]) -> None:
    message: Any = "reached"
    for step in reversed(steps):
        message = {step: message}
    place = parse_place(".".join(f'"{step}"' for step in steps))
    assert place.steps == tuple(steps)
    assert place.read(message) == "reached"


def test_a_null_is_not_an_absence() -> None:
    assert parse_place("traits.plan").is_null(MESSAGE)
    assert not parse_place("traits.age").is_null(MESSAGE)
    assert not parse_place("traits.plan.name").is_null(MESSAGE)


def test_the_first_value_that_is_not_blank() -> None:
    value = tuple(map(parse_place, ("a", "b", "c")))
    assert read_value(value, {"a": " ", "b": [], "c": 0}) == 0
    assert read_value(value, {"a": None, "b": {}}) is None
    assert [is_blank(it) for it in (False, 0, "0", [None])] == [False] * 4


def test_names_are_compared_without_case_and_signs() -> None:
    names = ("Product Viewed", "product_viewed", "PRODUCT-VIEWED", "productViewed")
    assert {plain_name(name) for name in names} == {"productviewed"}
    assert plain_name("Größe (cm)") == "grössecm"
    assert plain_name("...") == ""
