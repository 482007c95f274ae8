"""Match a transcript with titles of a catalogue by their sound.

A recogniser writes sounds as words of its vocabulary: "merry bliss" for "berry bliss", or other
characters with the sound of 红色皮鞋. Transcript and titles become strings of sounds: English words
their phones, Chinese characters their syllables without tones. Titles that share pairs of sounds
with the transcript are candidates; the share of sounds that an alignment keeps orders them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.speech.pronunciation import Phones, pronounce
from tactful.speech.vocabulary import title_words
from tactful.util.extras import absent_modules

_CANDIDATES = 100
_CHINESE = re.compile(r"[\u3400-\u9fff]+")
_LONGEST = 200  # sounds of a title or a transcript; the rest is not compared
# Sounds that recognisers and voices confuse; a change within a group costs half.
_ALIKE = (
    # English phones,
    *("B P", "T D", "K G", "F V", "S Z", "SH ZH CH JH", "TH DH", "M N NG", "L R", "W UW", "Y IY"),
    *("AA AO AH OW", "AE EH EY", "IH IY EH", "UH UW", "ER AH R", "AY EY", "AW OW"),
    # initials and finals of Chinese
    *("b p", "d t", "g k", "j zh z", "q ch c", "x sh s", "l n r", "h f"),
    *("an ang", "en eng", "in ing", "uan uang", "o uo e"),
)


class SoundMatch(NamedTuple):
    """A title that sounds like a transcript."""

    place: int  # number of the title in the index
    score: float  # share of the sounds that agree, in [0, 1]


class SoundIndex:
    """Titles by their sounds; immutable."""

    def __init__(
        self, titles: Sequence[str], dictionary: Mapping[str, list[Phones]] | None = None
    ) -> None:
        """Index `titles`; `dictionary` holds pronunciations of English words."""
        self._reader = _Reader(dictionary or {})
        self._sounds = [self._reader.read(title) for title in titles]
        postings: dict[int, list[int]] = {}
        for place, sounds in enumerate(self._sounds):
            for pair in set(_pairs(sounds)):
                postings.setdefault(pair, []).append(place)
        self._postings = {pair: np.array(places, np.int32) for pair, places in postings.items()}
        lengths = np.array([max(len(sounds), 1) for sounds in self._sounds], np.float32)
        self._roots = np.sqrt(lengths)

    def nearest(self, transcript: str, limit: int) -> list[SoundMatch]:
        """Return at most `limit` titles that sound like `transcript`, the best first."""
        heard = self._reader.read(transcript, keep=False)
        weights = np.zeros(len(self._sounds), np.float32)
        for pair in set(_pairs(heard)):
            if (places := self._postings.get(pair)) is not None:
                weights[places] += np.log1p(len(self._sounds) / len(places))
        weights /= self._roots
        best = np.argsort(-weights, kind="stable")[:_CANDIDATES]
        matches = [
            SoundMatch(int(place), self._reader.likeness(heard, self._sounds[place]))
            for place in best
            if weights[place] > 0
        ]
        return sorted(matches, key=lambda match: (-match.score, match.place))[:limit]


class _Reader:
    """Turns text to numbers of sounds, and compares them."""

    def __init__(self, dictionary: Mapping[str, list[Phones]]) -> None:
        self._dictionary = dictionary
        self._numbers: dict[str, int] = {}
        self._words: dict[str, list[str]] = {}
        self._alike = {
            frozenset((first, second))
            for group in map(str.split, _ALIKE)
            for first in group
            for second in group
        }
        self._costs: NDArray[np.float32] = np.zeros((0, 0), np.float32)

    def read(self, text: str, *, keep: bool = True) -> NDArray[np.int32]:
        """Return the sounds of a text; words of phrases are not kept, as they have no limit."""
        sounds: list[str] = []
        for word in title_words(text):
            known = self._words.get(word)
            if known is None:
                known = [*self._read_word(word)]
                if keep:
                    self._words[word] = known
            sounds += known
        return np.array(
            [self._numbers.setdefault(sound, len(self._numbers)) for sound in sounds[:_LONGEST]],
            np.int32,
        )

    def _read_word(self, word: str) -> Iterable[str]:
        if _CHINESE.search(word):
            return pinyin_sounds(word)
        ways = pronounce(word, self._dictionary)
        return ways[0] if ways else ()

    def likeness(self, heard: NDArray[np.int32], title: NDArray[np.int32]) -> float:
        """Return 1 less the cost of the cheapest alignment by the longer length."""
        if not len(heard) or not len(title):
            return 0.0
        costs = self._cost_table()[np.ix_(heard, title)]
        steps = np.arange(len(title) + 1, dtype=np.float32)
        row = steps.copy()
        for cost in costs:
            # Deletion or substitution; then insertions, as a running minimum.
            best = row + 1
            best[1:] = np.minimum(best[1:], row[:-1] + cost)
            row = np.minimum.accumulate(best - steps) + steps
        return max(0.0, 1 - float(row[-1]) / max(len(heard), len(title)))

    def _cost_table(self) -> NDArray[np.float32]:
        count = len(self._numbers)
        if len(self._costs) < count:
            names = list(self._numbers)
            table = np.ones((count, count), np.float32)
            for first, name in enumerate(names):
                for second, other in enumerate(names):
                    if frozenset((name, other)) in self._alike:
                        table[first, second] = 0.5
            np.fill_diagonal(table, 0)
            self._costs = table
        return self._costs


def pinyin_sounds(text: str) -> list[str]:
    """Return initials and finals of the syllables of Chinese characters, without tones.

    Nothing without the library `pypinyin`.
    """
    if absent_modules(["pypinyin"]):
        return []
    from pypinyin import Style, lazy_pinyin

    initials = lazy_pinyin(text, style=Style.INITIALS, strict=False, errors="ignore")
    finals = lazy_pinyin(text, style=Style.FINALS, strict=False, errors="ignore")
    return [
        sound
        for syllable in zip(initials, finals, strict=True)
        for sound in map(_plain, syllable)
        if sound
    ]


def _plain(sound: str) -> str:
    return unicodedata.normalize("NFKD", sound).encode("ascii", "ignore").decode()


def _pairs(sounds: NDArray[np.int32]) -> list[int]:
    """Return neighbours as numbers of 64 bits, and single sounds where there is one only."""
    if len(sounds) == 1:
        return [int(sounds[0])]
    wide = sounds.astype(np.int64)
    pairs: list[int] = ((wide[:-1] + 1 << 32) + wide[1:]).tolist()
    return pairs
