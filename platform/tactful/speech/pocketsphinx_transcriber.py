"""Small English transcriber: pocketsphinx with the words of a catalogue."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tactful.speech.audio import Speech, SpeechRefused
from tactful.speech.pronunciation import Phones, read_dictionary
from tactful.speech.transcriber import POCKETSPHINX, Alternative, Learned, Transcript
from tactful.speech.vocabulary import make_vocabulary

_MODEL_WEIGHT = 9.0  # of the language model, against the sound
_DITHER = 10.0  # standard deviation of added noise, of 32,767: digital silence has no logarithm
_SEED = 1
_ALTERNATIVES = 4
_TRIED = 20  # texts of the decoder among which the alternatives are; many differ in silence only


class PocketsphinxTranscriber:
    """Recognises words of the catalogue, in any order; titles are the likeliest order.

    The acoustic model and the dictionary come with the package `pocketsphinx` (US English).
    """

    name = POCKETSPHINX
    languages = ("en",)

    def __init__(self) -> None:
        """Read the dictionary; `learn` comes before `transcribe`.

        Raises:
            ImportError: if the extra `speech` is not installed.
        """
        import pocketsphinx

        self._library: Any = pocketsphinx
        self._decoder: Any = None
        self._dictionary = read_dictionary(
            Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
        )

    @property
    def dictionary(self) -> dict[str, list[Phones]]:
        """Pronunciations of English words."""
        return self._dictionary

    def learn(self, titles: Sequence[str]) -> Learned:
        """Make the language model of `titles`."""
        vocabulary = make_vocabulary(titles, self._dictionary)
        if vocabulary is None:
            self._decoder = None
            return Learned(0, 0)
        with tempfile.TemporaryDirectory(prefix="tactful-speech-") as folder:
            words, model = Path(folder, "words.dict"), Path(folder, "titles.lm")
            words.write_text(vocabulary.dictionary, "utf-8")
            model.write_text(vocabulary.model, "utf-8")
            self._decoder = self._library.Decoder(
                hmm=self._library.get_model_path("en-us/en-us"),
                dict=str(words),
                lm=str(model),
                lw=_MODEL_WEIGHT,
                cmn="batch",  # a phrase does not depend on those before it
                loglevel="FATAL",
            )
        return Learned(vocabulary.words, vocabulary.skipped)

    def transcribe(self, speech: Speech, language: str | None = None) -> Transcript:
        """Return the likeliest words of the catalogue in `speech`.

        Raises:
            SpeechRefused: if no word is found, or `language` is not English.
        """
        if language not in (None, "en"):
            raise SpeechRefused(
                "speech_language",
                "only English phrases are understood: set language to 'en', or [speech] model "
                "to a Whisper model",
            )
        if self._decoder is None:
            raise _no_words()
        noise = np.random.default_rng(_SEED).normal(0, _DITHER, len(speech.samples))
        samples = np.clip(speech.samples * 32_767 + noise, -32_768, 32_767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        best = self._decoder.hyp()
        if best is None or not best.hypstr:
            raise _no_words()
        return Transcript(
            text=best.hypstr,
            confidence=min(1.0, best.prob),
            language="en",
            seconds=speech.seconds,
            alternatives=self._alternatives(best),
        )

    def _alternatives(self, best: Any) -> tuple[Alternative, ...]:
        """Return other texts; the confidence is that of the best by the ratio of the scores."""
        found = [
            text for text, _ in zip(self._decoder.nbest(), range(_TRIED), strict=False) if text
        ]
        texts: dict[str, float] = {}
        for text in found:
            if text.hypstr and text.hypstr != best.hypstr:
                ratio = min(1.0, text.score / found[0].score) if found[0].score else 0.0
                texts.setdefault(text.hypstr, min(1.0, best.prob) * ratio)
        return tuple(Alternative(*pair) for pair in texts.items())[:_ALTERNATIVES]


def _no_words() -> SpeechRefused:
    return SpeechRefused("no_speech", "no word of the catalogue was heard: say it again")
