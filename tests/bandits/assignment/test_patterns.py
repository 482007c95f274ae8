import re

import pytest

from tactful_bandits.assignment.patterns import require_portable_pattern, search
from tactful_bandits.errors import DefinitionError


# The results of `new RegExp(pattern, "u")`, and with "iu", in Node 18.
@pytest.mark.parametrize(
    ("pattern", "text", "found", "found_in_any_case"),
    [
        (r"\d", "٣", False, False),
        (r"^\w$", "é", False, False),
        (r"^\w$", "ſ", False, True),
        (r"^s$", "ſ", False, True),
        (r"^K$", "\u212a", False, True),
        (r"^i$", "İ", False, False),
        (r"^i$", "ı", False, False),
        (r"^É$", "é", False, True),
        (r"^ß$", "ẞ", False, True),
        (r"^ss$", "ß", False, False),
        (r"b$", "b\n", False, False),
        (r"^.$", "\u2028", False, False),
        (r"^.$", "😊", True, True),
        (r"^.$", "\ud83d", True, True),
        (r"\s", "\ufeff", True, True),
        (r"\bcat\b", "a cat.", True, True),
        (r"\bcat\b", "écaté", True, True),
        (r"^[\s\d-]+$", "1 - 2", True, True),
        (r"^\x41\u4e2d\/\.$", "A中/.", True, True),
        (r"(?:ab){2,3}?c", "ababc", True, True),
    ],
)
def test_patterns_match_what_javascript_matches(
    pattern: str, text: str, found: bool, found_in_any_case: bool
) -> None:
    require_portable_pattern("p", pattern)
    assert search(pattern, text) is found
    assert search(pattern, text, ignore_case=True) is found_in_any_case


@pytest.mark.parametrize(
    "pattern",
    [
        *[r"(?<n>a)", r"(?P<n>a)", r"(?=a)", r"(?<!a)b", r"(?i)a", r"(a)\1", r"a++", r"a{,2}"],
        *[r"\Aa", r"\pL", "{", "]", "[]", "[^]", r"[\D]", r"[a-\d]", r"\b+", "^*", "a{1001}"],
        *["(", "a)", "*a"],
    ],
)
def test_other_syntax_is_refused(pattern: str) -> None:
    with pytest.raises(DefinitionError, match=r"^where\.\$regex: "):
        require_portable_pattern("where.$regex", pattern)


def test_a_pattern_is_a_text() -> None:
    with pytest.raises(DefinitionError, match="is a text, not 5; quote it"):
        require_portable_pattern("p", 5)


def test_hostile_texts_take_linear_time() -> None:
    # Backtracking would take 2 ** 5000 steps.
    assert not search(r"^(a+)+$", "a" * 5000 + "b")


def test_foreign_patterns_keep_pythons_meaning() -> None:
    assert search(r"(?<=a)b", "ab") and not search(r"(?<=a)b", "cb")
    assert not search("(", "(")
    with pytest.raises(re.error):
        re.compile("(")
