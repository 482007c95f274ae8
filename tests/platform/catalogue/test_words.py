"""Words of texts: case, accents, widths, and scripts that write no spaces."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.catalogue import words as module
from tactful.catalogue.words import fold, query_of, words

ALIKE = [
    ("Crème Brûlée", "creme brulee"),
    ("STRASSE", "straße"),
    ("ŁÓDŹ", "lodz"),
    ("İSTANBUL", "istanbul"),
    ("ＡＢＣ １２", "abc 12"),
    ("Smørrebrød", "smorrebrod"),
    ("ﬁne", "fine"),
    ("Ёлка", "елка"),
    ("ガラス", "ｶﾞﾗｽ"),
    ("e\u0301te\u0301", "été"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_case_accents_and_widths_do_not_count(one: str, other: str) -> None:
    assert fold(one) == fold(other)
    assert words(one) == words(other)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("%%% --- \x00\x1f", []),
        ("sku-42_b.c", ["sku", "42", "b", "c"]),
        ("茶壶", ["茶壶", "壶"]),
        ("500ml茶壶Tea", ["500ml", "茶壶", "壶", "tea"]),
        ("दुनिया", ["दनय"]),
    ],
)
def test_words_are_runs_of_letters_and_digits(text: str, found: list[str]) -> None:
    assert words(text) == found


@given(st.text(), st.text())
def test_a_text_is_found_by_itself_and_by_any_part_of_a_run(before: str, after: str) -> None:
    """Whatever stands around it: each term of the query is a term, or the beginning of one."""
    for query in (query_of(before), query_of("茶壶"), query_of("壶")):
        held = words(f"{before} 套茶壶具 {after}")
        assert set(query.whole) <= set(held)
        assert all(any(term.startswith(begun) for term in held) for begun in query.begun)


@given(st.text())
def test_folding_again_changes_no_word(text: str) -> None:
    assert words(fold(text)) == words(text)


def test_examples_in_docstrings_run() -> None:
    assert doctest.testmod(module) == (0, 3)
