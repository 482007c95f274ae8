from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_bandits.assignment.conditions import matches, require_condition
from tactful_bandits.errors import DefinitionError

# Where we differ on purpose: JavaScript converts before it orders, so that a missing age is above
# -10 and the text "8" below the number 10. GrowthBook's own Python SDK differs here, too.
CONVERTED_BY_JAVASCRIPT = {
    "missing attribute with comparison operators",
    "comparing numbers and strings",
    "comparing numbers and strings - v2",
}


@pytest.mark.parametrize("corpus", ["cases-sdkjs.json", "cases-python-2.2.1.json"])
def test_all_published_conditions_but_three(published: Callable[[str], Any], corpus: str) -> None:
    cases = published(corpus)["evalCondition"]
    assert len(cases) >= 235
    differing = {
        name
        for name, condition, attributes, expected, *groups in cases
        if matches(condition, attributes, *groups) is not expected
    }
    assert differing == CONVERTED_BY_JAVASCRIPT


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.sampled_from([10**400, -(10**400)])
    | st.floats()
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
comparisons = st.sampled_from(
    ["$eq", "$ne", "$lt", "$gte", "$vgt", "$in", "$nini", "$regex", "$type"]
)
others = st.sampled_from(
    ["$exists", "$not", "$size", "$elemMatch", "$all", "$and", "$or", "$inGroup"]
)
operators = comparisons | others | st.just("$x")
conditions = st.dictionaries(
    st.sampled_from("ab") | operators,
    values | st.dictionaries(operators, values, max_size=2),
    max_size=3,
)


@given(conditions, st.dictionaries(st.sampled_from("ab"), values, max_size=2))
def test_evaluation_never_fails_and_negation_negates(
    condition: dict[str, Any], attributes: dict[str, Any]
) -> None:
    got = matches(condition, attributes)
    assert matches({"$not": condition}, attributes) is not got
    assert matches({"$and": [condition, {}]}, attributes) is got
    assert matches({"$nor": [condition]}, attributes) is not got


def test_whole_numbers_may_have_any_size() -> None:
    huge = {"a": 10**400}
    assert matches({"a": {"$gt": 1}}, huge)
    assert not matches({"a": {"$lt": -1.5}}, huge)
    assert not matches({"a": 1}, huge)
    assert matches({"a": {"$lt": -1.5}}, {"a": -(10**400)})


@given(conditions)
def test_accepted_conditions_hold_known_operators(condition: Any) -> None:
    try:
        require_condition("c", condition)
    except DefinitionError:
        return
    assert not any(key == "$x" for key in condition)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ([], "c: expected a mapping"),
        ({"a": {"$regx": "x"}}, r"c\.a\.\$regx: unknown operator; expected one of"),
        ({"$eq": 1}, r"c\.\$eq: unknown operator; use an attribute or"),
        ({"$or": {"a": 1}}, r"c\.\$or: expected a list"),
        ({"$or": [{"a": {"$in": 3}}]}, r"c\.\$or\[0\]\.a\.\$in: expected a list"),
        ({"a": {"$regex": "???"}}, r"c\.a\.\$regex: not a regular expression"),
        ({"a": {"$not": {"$what": 1}}}, r"c\.a\.\$not\.\$what: unknown"),
        ({"a": {"$elemMatch": {"b": {"$what": 1}}}}, r"c\.a\.\$elemMatch\.b\.\$what: unknown"),
        ({1: 2}, "attributes are texts"),
    ],
)
def test_what_cannot_be_meant_is_refused(condition: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        require_condition("c", condition)


def test_nesting_has_an_end() -> None:
    deep: Any = {"a": 1}
    inside: Any = {"$exists": True}
    for _ in range(40):
        deep, inside = {"$not": deep}, {"$not": inside}
    for condition in (deep, {"a": inside}):
        with pytest.raises(DefinitionError, match="nested more than 32 deep"):
            require_condition("c", condition)
