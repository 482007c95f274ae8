"""The intent model on a device that has numpy and nothing to train with."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import SettingsError, VocabularyError, require
from tactful_federated.tokens import BOUNDARY, FIRST_CATEGORY
from tactful_federated.vectors import Vector, check_vector

_CONTEXT_TOKENS = 256


class IntentPredictor:
    """The same function as `IntentModel.predict`, from the same flat vector.

    Args:
        weights: Flat float32, in the order of `IntentModel.vector`.
        vocabulary_size: Tokens, reserved ones included.
        embedding: Width of a token's vector.
        hidden: Width of the LSTM state.
        temperature: Logits are divided by it, above 0; see `fit_temperature`.
    """

    def __init__(
        self,
        weights: Vector,
        vocabulary_size: int,
        *,
        embedding: int = 32,
        hidden: int = 32,
        temperature: float = 1.0,
    ) -> None:
        """Cut the vector into layers.

        Raises:
            WeightsError: The vector does not fit.
            SettingsError: The temperature is not above 0.
        """
        require(0 < temperature < float("inf"), f"temperature is {temperature}: give above 0")
        categories = vocabulary_size - FIRST_CATEGORY
        shapes = [
            (vocabulary_size, embedding),
            (4 * hidden, embedding),
            (4 * hidden, hidden),
            (4 * hidden,),
            (4 * hidden,),
            (categories, hidden + embedding),
            (categories,),
        ]
        sizes = [int(np.prod(shape)) for shape in shapes]
        flat = check_vector(weights, sum(sizes))
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        layers = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        self._table, self._from_input, self._from_state = layers[:3]
        self._bias = layers[3] + layers[4]
        self._out, self._out_bias = layers[5:]
        self._size, self._hidden, self._temperature = vocabulary_size, hidden, temperature

    def predict(self, history: Sequence[int]) -> NDArray[np.float64]:
        """Probability of each token to come next; as `IntentModel.predict`.

        Raises:
            VocabularyError: A token lies outside the vocabulary.
        """
        state, _, token = self._read(list(history[-_CONTEXT_TOKENS:]) or [BOUNDARY])
        return self._next(state, token)

    def likely_within(
        self,
        history: Sequence[int],
        categories: Collection[int],
        *,
        steps: int,
        seed: int,
        continuations: int = 200,
    ) -> float:
        """Probability that one of some categories comes within the next steps: "about to buy".

        The share of `continuations` drawn from the model itself, so its standard error is at most
        ``0.5 / sqrt(continuations)``.

        Args:
            history: Tokens so far.
            categories: Tokens waited for.
            steps: How far to look ahead, 1 or more.
            seed: Of the draws.
            continuations: How many to draw, 1 or more.

        Raises:
            SettingsError: A number is out of range.
            VocabularyError: A token lies outside the vocabulary.
        """
        if steps < 1 or continuations < 1:
            raise SettingsError("steps and continuations must be at least 1")
        random = np.random.default_rng(seed)
        wanted = np.isin(np.arange(self._size), list(categories))
        state, cell, token = self._read(list(history[-_CONTEXT_TOKENS:]) or [BOUNDARY])
        states = np.repeat(state[None], continuations, axis=0)
        cells = np.repeat(cell[None], continuations, axis=0)
        tokens = np.full(continuations, token)
        met = np.zeros(continuations, dtype=bool)
        for step in range(steps):
            if step:
                states, cells = self._advance(states, cells, tokens)
            likely = self._next(states, tokens).cumsum(axis=1)
            drawn = random.random(continuations)[:, None] * likely[:, -1:]
            tokens = (likely <= drawn).sum(axis=1).clip(FIRST_CATEGORY, self._size - 1)
            met |= wanted[tokens]
        return float(met.mean())

    def _read(self, tokens: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
        if not all(0 <= token < self._size for token in tokens):
            raise VocabularyError(f"the history holds a token outside 0..{self._size - 1}")
        state = cell = np.zeros(self._hidden, dtype=np.float32)
        for token in tokens:
            state, cell = self._advance(state, cell, np.array(token))
        return state, cell, tokens[-1]

    def _advance(
        self, state: NDArray[np.float32], cell: NDArray[np.float32], token: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        gates = self._embed(token) @ self._from_input.T + state @ self._from_state.T + self._bias
        entry, forget, value, leaving = np.split(gates, 4, axis=-1)
        cell = _sigmoid(forget) * cell + _sigmoid(entry) * np.tanh(value)
        return _sigmoid(leaving) * np.tanh(cell), cell

    def _embed(self, token: NDArray[np.int64] | int) -> NDArray[np.float32]:
        read: NDArray[np.float32] = self._table[token]
        return read

    def _next(
        self, state: NDArray[np.float32], token: NDArray[np.int64] | int
    ) -> NDArray[np.float64]:
        seen = np.concatenate([state, self._embed(token)], axis=-1)
        logits = (seen @ self._out.T + self._out_bias).astype(np.float64) / self._temperature
        likely = np.exp(logits - logits.max(axis=-1, keepdims=True))
        likely /= likely.sum(axis=-1, keepdims=True)
        reserved = np.zeros((*likely.shape[:-1], FIRST_CATEGORY))
        return np.concatenate([reserved, likely], axis=-1)


def fit_temperature(
    logits: NDArray[np.floating], answers: NDArray[np.int64], *, steps: int = 60
) -> float:
    """Temperature under which probabilities are best calibrated, by their likelihood.

    Guo et al., "On calibration of modern neural networks", ICML 2017. One number, found by golden
    section between 0.2 and 5; ranks do not change.

    Args:
        logits: Of held-out questions, ``[questions, categories]``.
        answers: Their right categories, counted from 0.
        steps: Of the search.

    Raises:
        SettingsError: There is no question.
    """
    require(len(answers) > 0, "a temperature needs questions to fit")
    rows = np.arange(len(answers))

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, answers]).mean())

    low, high, golden = np.log(0.2), np.log(5.0), (np.sqrt(5) - 1) / 2
    for _ in range(steps):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    # Both tails without overflow.
    result: NDArray[np.float32] = 0.5 * (1 + np.tanh(0.5 * x))
    return result
