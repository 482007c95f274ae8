"""Pronounce words of a catalogue in the phones of the CMU dictionary (ARPAbet, no stress).

A word is looked up, else taken for an inflected or a compound word of the dictionary ("crossbody"
is "cross" and "body"), else read by spelling rules. The rules are an aid for names of products:
they cover the regular part of English spelling and no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

Phones = tuple[str, ...]  # such as ("SH", "UW")

_LONGEST = 40
_SHORTEST_PART = 3
_VOICELESS = frozenset({"P", "T", "K", "F", "TH"})
_SIBILANT = frozenset({"S", "Z", "SH", "ZH", "CH", "JH"})
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
    *("seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

# Spelling → phones; the first match wins. ^ and $ are the ends of a word.
_RULES = tuple(
    (re.compile(pattern), tuple(phones.split()))
    for pattern, phones in (
        (r"(?<=.)tion", "SH AH N"),
        (r"(?<=.)sion", "ZH AH N"),
        (r"(?<=.)ture$", "CH ER"),
        (r"(?<=.)cious|(?<=.)tious", "SH AH S"),
        (r"(?<=.)ous$", "AH S"),
        (r"(?<=[^aeiouy])le$", "AH L"),
        (r"(?<=[td])ed$", "IH D"),
        (r"(?<=[pkfsxh])ed$", "T"),
        (r"(?<=.)ed$", "D"),
        (r"(?<=.)ing$", "IH NG"),
        (r"^kn", "N"),
        (r"^wr", "R"),
        (r"^ps", "S"),
        (r"^x", "Z"),
        (r"^gh", "G"),
        (r"mb$", "M"),
        (r"eigh", "EY"),
        (r"igh", "AY"),
        (r"ough|augh", "AO"),
        (r"tch", "CH"),
        (r"dge", "JH"),
        (r"sch", "SH"),
        (r"ch", "CH"),
        (r"sh", "SH"),
        (r"th", "TH"),
        (r"ph", "F"),
        (r"wh", "W"),
        (r"ck|cc(?![eiy])", "K"),
        (r"ng$", "NG"),
        (r"nk", "NG K"),
        (r"qu", "K W"),
        (r"gh", ""),
        (r"(ss|s)(?=u?re)", "SH"),
        (r"([bdfgklmnprstvz])\1", "*"),
        (r"eer|ear", "IH R"),
        (r"air|are$", "EH R"),
        (r"ar", "AA R"),
        (r"oor|or", "AO R"),
        (r"our", "AO R"),
        (r"er|ir|ur", "ER"),
        (r"ee|ea|ie(?=.)", "IY"),
        (r"oo|ew|ue$", "UW"),
        (r"oi|oy", "OY"),
        (r"ou", "AW"),
        (r"ow(?=.)", "AW"),
        (r"ow|oa|oe", "OW"),
        (r"ai|ay|ei|ey(?=.)", "EY"),
        (r"au|aw", "AO"),
        (r"ie$", "IY"),
        (r"a(?=[bcdfgjklmnpqrstvz]e)", "EY"),
        (r"e(?=[bcdfgjklmnpqrstvz]e)", "IY"),
        (r"i(?=[bcdfgjklmnpqrstvz]e)", "AY"),
        (r"o(?=[bcdfgjklmnpqrstvz]e)", "OW"),
        (r"u(?=[bcdfgjklmnpqrstvz]e)", "UW"),
        (r"ey$|(?<=.)y$", "IY"),
        (r"(?<=[^aeiou])e$", ""),
        (r"o$", "OW"),
        (r"^y", "Y"),
        (r"a$", "AH"),
        (r"c(?=[eiy])", "S"),
        (r"g(?=[eiy])", "JH"),
        (r"x", "K S"),
        (r"a", "AE"),
        (r"b", "B"),
        (r"c|k|q", "K"),
        (r"d", "D"),
        (r"e", "EH"),
        (r"f", "F"),
        (r"g", "G"),
        (r"h", "HH"),
        (r"[iy]", "IH"),
        (r"j", "JH"),
        (r"l", "L"),
        (r"m", "M"),
        (r"n", "N"),
        (r"o", "AA"),
        (r"p", "P"),
        (r"r", "R"),
        (r"s", "S"),
        (r"t", "T"),
        (r"u", "AH"),
        (r"v", "V"),
        (r"w", "W"),
        (r"z", "Z"),
    )
)


def read_dictionary(file: Path) -> dict[str, list[Phones]]:
    """Read a CMU dictionary: every pronunciation of a word, the usual one first."""
    words: dict[str, list[Phones]] = {}
    for line in file.read_text("utf-8").splitlines():
        name, *phones = line.split()
        words.setdefault(name.partition("(")[0] or name, []).append(tuple(phones))
    return words


def pronounce(word: str, dictionary: Mapping[str, list[Phones]]) -> list[Phones]:
    """Return how `word` can be said, the usual way first; nothing if it has no Latin letter.

    Args:
        word: a word in lower case, without accents.
        dictionary: pronunciations of known words, as `read_dictionary` returns them.
    """
    if known := dictionary.get(word):
        return known
    if word.isascii() and word.isdigit():
        parts = [dictionary.get(name) for name in _number_words(word)]
        return [tuple(phone for part in parts if part for phone in part[0])]
    if not re.fullmatch(rf"[a-z']{{1,{_LONGEST}}}", word):
        return []
    return _inflected(word, dictionary) or _compound(word, dictionary) or [spell(word.strip("'"))]


def spell(word: str) -> Phones:
    """Read `word` by the rules of spelling.

    >>> spell("shirt")
    ('SH', 'ER', 'T')
    """
    phones: list[str] = []
    text, at = word.replace("'", ""), 0
    while at < len(text):
        for pattern, sound in _RULES:
            if match := pattern.match(text, at):
                if sound == ("*",):  # a double consonant is said once
                    at += 1
                else:
                    phones += sound
                    at = match.end()
                break
        else:
            at += 1
    return tuple(phones)


def _inflected(word: str, dictionary: Mapping[str, list[Phones]]) -> list[Phones]:
    """Say a plural or a possessive by its stem."""
    stem = re.sub(r"('s|s'|s)$", "", word)
    if stem == word or not (known := dictionary.get(stem)):
        return []
    return [(*phones, *_plural(phones)) for phones in known]


def _plural(phones: Phones) -> Iterable[str]:
    if phones[-1] in _SIBILANT:
        return ("IH", "Z")
    return ("S",) if phones[-1] in _VOICELESS else ("Z",)


def _compound(word: str, dictionary: Mapping[str, list[Phones]]) -> list[Phones]:
    """Say a word that two words of the dictionary form; the most even split wins."""
    middle = len(word) / 2
    places = range(_SHORTEST_PART, len(word) - _SHORTEST_PART + 1)
    for at in sorted(places, key=lambda place: abs(place - middle)):
        first, second = dictionary.get(word[:at]), dictionary.get(word[at:])
        if first and second:
            return [(*first[0], *second[0])]
    return []


def _number_words(digits: str) -> list[str]:
    """Say a number below one million as one number, a longer one digit by digit."""
    if len(digits) > 6 or (digits.startswith("0") and digits != "0"):
        return [_ONES[int(digit)] for digit in digits]
    return _below_million(int(digits))


def _below_million(number: int) -> list[str]:
    if number < 20:
        return [_ONES[number]]
    if number < 100:
        rest = [_ONES[number % 10]] if number % 10 else []
        return [_TENS[number // 10 - 2], *rest]
    size, name = (100, "hundred") if number < 1_000 else (1_000, "thousand")
    rest = _below_million(number % size) if number % size else []
    return [*_below_million(number // size), name, *rest]
