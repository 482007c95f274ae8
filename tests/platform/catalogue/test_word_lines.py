"""Shares of words found in texts, against a plain comparison of sets."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from pytest import MonkeyPatch

from tactful.catalogue import word_lines
from tactful.catalogue.word_lines import WordLines
from tactful.catalogue.words import words

TEXTS = st.text("ab 1Aé茶壶 -,", max_size=12)


@given(st.lists(TEXTS, max_size=6), TEXTS.filter(words))
def test_a_share_is_that_of_the_words_in_common(texts: list[str], query: str) -> None:
    lines, wanted = WordLines(), frozenset(words(query))
    expected = [len(wanted & {*words(text)}) / len(wanted) if text else math.nan for text in texts]
    for _ in range(2):  # the second time from memory
        found = lines.share_found(wanted, texts).tolist()
        assert [f"{share:.4f}" for share in found] == [f"{share:.4f}" for share in expected]


def test_what_is_no_text_has_no_share() -> None:
    shares = WordLines().share_found(["tea"], [None, 0, 7.5, ("tea",), "", "tea"]).tolist()
    assert shares[-1] == 1.0
    assert all(math.isnan(share) for share in shares[:-1])


def test_memory_is_bounded(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(word_lines, "_MOST_CHARACTERS", 100)
    lines = WordLines()
    for number in range(50):
        assert lines.share_found(["tea"], [f"tea {number}"]).tolist() == [1.0]
        assert len(lines._lines) < 20
