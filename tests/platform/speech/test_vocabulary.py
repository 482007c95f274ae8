"""Pronunciations, language models and matches by sound of a small catalogue."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.speech.pronunciation import pronounce, read_dictionary, spell
from tactful.speech.sounds import SoundIndex, pinyin_sounds
from tactful.speech.vocabulary import make_vocabulary, title_words

WORDS = {
    "cross": "K R AO S", "body": "B AA D IY", "bag": "B AE G", "red": "R EH D", "shoe": "SH UW",
    "glass": "G L AE S", "three": "TH R IY", "hundred": "HH AH N D R AH D", "five": "F AY V",
}  # fmt: skip
DICTIONARY = {word: [tuple(phones.split())] for word, phones in WORDS.items()}
TITLES = ["Red Crossbody Bag", "Red shoes (3)", "Glasses", "红色皮鞋", "Café 105"]


def test_read_dictionary(tmp_path: Path) -> None:
    file = tmp_path / "words.dict"
    file.write_text("the DH AH\nthe(2) DH IY\n'em AH M\n")
    assert read_dictionary(file) == {"the": [("DH", "AH"), ("DH", "IY")], "'em": [("AH", "M")]}


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("crossbody", "K R AO S B AA D IY"),
        ("shoes", "SH UW Z"),
        ("glass's", "G L AE S IH Z"),
        ("3", "TH R IY"),
        ("105", "HH AH N D R AH D F AY V"),  # "one" is not in the dictionary
        ("trekker", "T R EH K ER"),
        ("shirt", "SH ER T"),
        ("nation", "N AE SH AH N"),
    ],
)
def test_pronounce(word: str, phones: str) -> None:
    assert pronounce(word, DICTIONARY)[0] == tuple(phones.split())


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz'", min_size=1, max_size=40))
def test_every_word_has_known_phones(word: str) -> None:
    vowels = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
    others = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
    known = {*vowels.split(), *others.split()}
    assert {*spell(word)} <= known


def test_words_without_a_latin_letter_have_no_pronunciation() -> None:
    assert pronounce("红色", DICTIONARY) == []
    assert pronounce("x" * 41, DICTIONARY) == []


def test_a_vocabulary_of_titles() -> None:
    vocabulary = make_vocabulary(TITLES, DICTIONARY)
    assert vocabulary is not None
    assert vocabulary.words == 8 and vocabulary.skipped == 1
    assert "3 TH R IY\n" in vocabulary.dictionary
    assert make_vocabulary(["红色皮鞋", ""], DICTIONARY) is None


@given(st.lists(st.text(alphabet="abc 1'", max_size=12), min_size=1, max_size=12))
def test_probabilities_of_the_model_sum_to_one(titles: list[str]) -> None:
    """A back-off model gives each history a distribution over the words."""
    vocabulary = make_vocabulary(titles, DICTIONARY)
    if vocabulary is None:
        return
    single: dict[str, float] = {}  # of words, without history
    back: dict[str, float] = {}  # weight of them after a word that they do not follow
    pairs: dict[str, dict[str, float]] = defaultdict(dict)
    singles, _, doubles = vocabulary.model.partition("\\2-grams:")
    for share, word, weight in map(
        str.split, singles.partition("\\1-grams:")[2].splitlines()[1:-1]
    ):
        single[word], back[word] = 10 ** float(share), 10 ** float(weight)
    for share, first, second in map(str.split, doubles.splitlines()[1:-2]):
        pairs[first][second] = 10 ** float(share)
    assert math.isclose(sum(single.values()), 1, rel_tol=1e-3)
    for history, following in pairs.items():
        rest = sum(share for word, share in single.items() if word not in following)
        total = sum(following.values()) + back[history] * rest
        assert total <= 1.001
        assert rest < 1e-6 or math.isclose(total, 1, rel_tol=2e-3) or back[history] == 1


@given(st.text(max_size=60))
def test_any_title_has_words(title: str) -> None:
    assert all(title_words(title))


def test_titles_by_sound() -> None:
    index = SoundIndex(["Berry Bliss Bowl", "Cherry Glass Bowl", "Leather Boots"], DICTIONARY)
    matches = index.nearest("merry bliss bow", 2)
    assert [match.place for match in matches] == [0, 1]
    assert 1 > matches[0].score > matches[1].score > 0
    assert index.nearest("berry bliss bowl", 1)[0].score == 1
    assert index.nearest("", 5) == index.nearest("!?", 5) == []
    assert SoundIndex([], DICTIONARY).nearest("bowl", 5) == []
    assert "merry" not in index._reader._words, "words of phrases are not kept"


def test_chinese_titles_by_sound() -> None:
    pytest.importorskip("pypinyin", reason="needs the extra speech")
    assert pinyin_sounds("皮鞋") == ["p", "i", "x", "ie"]
    titles = ["红色皮鞋", "蓝色牛仔裤", "女士羊毛大衣", "儿童书包"]
    # Other characters with the same sounds, and one that is near.
    assert SoundIndex(titles).nearest("洪瑟皮协", 1)[0] == (0, 1.0)
    assert SoundIndex(titles).nearest("书宝", 1)[0].place == 3
