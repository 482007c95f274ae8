"""Make the words and the language model of a recogniser from the titles of a catalogue.

The model is a bigram model of the titles with absolute discounting, in the ARPA format, so that a
phrase may hold any part of a title in any order, and the order of the titles is the likeliest. A
number is one word of the model with the sound of its words: the transcript of "set of three" is
"set of 3", as in the catalogue.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from tactful.speech.pronunciation import Phones, pronounce

_DISCOUNT = 0.1
_WORDS = re.compile(r"[a-z]+(?:'[a-z]+)*|[0-9]+|[^\W\d_a-z]+")
_LARGEST = 50_000
"""Words of a model; the most frequent ones are taken."""


@dataclass(frozen=True)
class Vocabulary:
    """Words and language model of a recogniser.

    Attributes:
        dictionary: text of the pronunciations, in the format of the CMU dictionary.
        model: text of the language model, in the ARPA format.
        words: number of words that can be recognised.
        skipped: number of words of the catalogue without a pronunciation, or beyond the largest
            number of words.
    """

    dictionary: str
    model: str
    words: int
    skipped: int


def title_words(title: str) -> list[str]:
    """Split a title into words in lower case without accents.

    >>> title_words("Café Chef's Set/3")
    ['cafe', "chef's", 'set', '3']
    """
    plain = unicodedata.normalize("NFKD", title.lower().replace("’", "'"))
    return _WORDS.findall("".join(sign for sign in plain if not unicodedata.combining(sign)))


def make_vocabulary(
    titles: Iterable[str], dictionary: Mapping[str, list[Phones]]
) -> Vocabulary | None:
    """Make a vocabulary of `titles`; None if no word of them can be pronounced.

    Args:
        titles: titles of a catalogue.
        dictionary: pronunciations of known words.
    """
    lines = {tuple(title_words(title)) for title in titles}
    counts = Counter(word for line in lines for word in line)
    spoken: dict[str, list[Phones]] = {}
    for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:_LARGEST]:
        if ways := [way for way in pronounce(word, dictionary) if way]:
            spoken[word] = ways
    if not spoken:
        return None
    return Vocabulary(
        dictionary=_dictionary_text(spoken),
        model=_arpa(sorted(lines), spoken),
        words=len(spoken),
        skipped=len(counts) - len(spoken),
    )


def _dictionary_text(spoken: Mapping[str, list[Phones]]) -> str:
    lines = []
    for word in sorted(spoken):
        for number, phones in enumerate(dict.fromkeys(spoken[word]), 1):
            name = word if number == 1 else f"{word}({number})"
            lines.append(f"{name} {' '.join(phones)}\n")
    return "".join(lines)


def _arpa(lines: Iterable[tuple[str, ...]], spoken: Mapping[str, list[Phones]]) -> str:
    """Return a bigram model with absolute discounting (Ney, Essen and Kneser, 1994)."""
    singles: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for line in lines:
        # A word that cannot be pronounced is not spoken: its neighbours follow each other.
        sentence = ["<s>", *(word for word in line if word in spoken), "</s>"]
        singles.update(sentence)
        pairs.update(pairwise(sentence))
    followers: Counter[str] = Counter(first for first, _ in pairs)
    total = singles.total() - singles["<s>"]
    shares = {word: count / total for word, count in singles.items()}
    seen: Counter[str] = Counter()  # probability of the followers of a word, as single words
    for first, second in pairs:
        seen[first] += shares[second]  # type: ignore[assignment]
    text = [f"\\data\\\nngram 1={len(singles)}\nngram 2={len(pairs)}\n\n\\1-grams:\n"]
    for word in sorted(singles):
        share = -99.0 if word == "<s>" else math.log10(shares[word])
        kept = _DISCOUNT * followers[word] / singles[word] if followers[word] else 1.0
        back = math.log10(kept / max(1 - seen[word], 1e-9)) if followers[word] else 0.0
        text.append(f"{share:.4f} {word} {min(back, 0.0):.4f}\n")
    text.append("\n\\2-grams:\n")
    for first, second in sorted(pairs):
        share = math.log10((pairs[first, second] - _DISCOUNT) / singles[first])
        text.append(f"{share:.4f} {first} {second}\n")
    text.append("\n\\end\\\n")
    return "".join(text)
