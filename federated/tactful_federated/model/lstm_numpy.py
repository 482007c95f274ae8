"""The intent model in numpy: prediction on a device without torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import SettingsError, VocabularyError, require
from tactful_federated.model.tokens import BOUNDARY, FIRST_CATEGORY, PAD, Windows
from tactful_federated.model.vectors import Vector, checked_layers

CURVATURE: Final = 0.0027
"""Default in nats, for use before a model exists. Measured on an intent model of 17,662 parameters
on the families of `online_retail`, at noise widths from 0.01 to 0.1
(`scripts/bench federated --only personal`)."""

_CONTEXT_TOKENS = 256

Floats = NDArray[np.float32]


def require_temperature(temperature: float) -> None:
    """Raise `SettingsError` unless a temperature is finite and above 0."""
    require(0 < temperature < np.inf, f"temperature is {temperature}: give a finite number above 0")


class IntentPredictor:
    """Numpy implementation of `IntentModel.predict` on the same flat vector.

    Args:
        weights: Flat float32, in the order of `IntentModel.vector`.
        vocabulary_size: Number of tokens, including reserved ones.
        embedding: Width of a token's vector.
        hidden: Width of the LSTM state.
        temperature: Divisor of the logits, above 0; see `fit_temperature`.

    All arguments are also attributes.
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
        """Split the vector into layers.

        Raises:
            WeightsError: The vector does not fit.
            SettingsError: The temperature is not above 0.
        """
        require_temperature(temperature)
        parts = checked_layers(weights, vocabulary_size, embedding, hidden)
        self._table, self._from_input, self._from_state = parts[:3]
        self._bias = parts[3] + parts[4]
        self._out, self._out_bias = parts[5:]
        self.weights, self.vocabulary_size, self.temperature = weights, vocabulary_size, temperature
        self.embedding, self.hidden = embedding, hidden

    def replaced(self, weights: Vector, temperature: float | None = None) -> IntentPredictor:
        """Return a predictor with other weights and, unless None, another temperature."""
        return IntentPredictor(
            weights,
            self.vocabulary_size,
            embedding=self.embedding,
            hidden=self.hidden,
            temperature=self.temperature if temperature is None else temperature,
        )

    def loss(self, asked: Windows) -> float:
        """Return the mean -log p(answer) of questions in nats."""
        return mean_loss(*self.questions(asked), self.temperature)

    def predict(self, history: Sequence[int]) -> NDArray[np.float64]:
        """Return the probability of each token to come next, as `IntentModel.predict`.

        Raises:
            VocabularyError: A token lies outside the vocabulary.
        """
        state, _, token = self._read(self._latest(history))
        return self._next(state, token)

    def questions(self, asked: Windows) -> tuple[Floats, NDArray[np.int64]]:
        """Return the logits of questions, and the right answers.

        Logits are `[questions, categories]`, not divided by the temperature; answers are categories
        `[questions]`, counted from 0.
        """
        rows, length = asked.inputs.shape
        states = cells = np.zeros((rows, self.hidden), dtype=np.float32)
        logits, answers = [self._logits(states[:0], asked.inputs[:0, 0])], [asked.answers[:0, 0]]
        for t in range(length):
            tokens, scored = asked.inputs[:, t], asked.answers[:, t] != PAD
            states, cells = self._advance(states, cells, tokens)
            logits.append(self._logits(states[scored], tokens[scored]))
            answers.append(asked.answers[scored, t])
        return np.concatenate(logits), np.concatenate(answers).astype(np.int64) - FIRST_CATEGORY

    def likely_within(
        self,
        history: Sequence[int],
        targets: Sequence[Collection[int]],
        *,
        steps: int,
        seed: int,
        continuations: int = 200,
        ends: float = 0.0,
    ) -> NDArray[np.float64]:
        """Return the probability that a target occurs within 1, 2, ... steps.

        Continuations are drawn from the model. The chance of a target at a step is the mean of its
        probabilities after the continuations that have missed it so far, so the first step is
        exact. The standard error of the others is at most ``0.5 / sqrt(continuations)``.

        Args:
            history: Tokens, oldest first.
            targets: Sets of tokens, any of which counts.
            steps: Number of categories to look ahead, without boundaries.
            seed: Seed of the draws; equal seeds give equal results.
            continuations: Number of draws.
            ends: Probability that a visit ends after a category, which the model does not predict.

        Returns:
            ``[steps, targets]``, which never falls from step to step.

        Raises:
            SettingsError: `steps` or `continuations` is below 1, or `ends` is no probability.
            VocabularyError: A token lies outside the vocabulary.
        """
        if steps < 1 or continuations < 1:
            raise SettingsError("steps and continuations must be at least 1")
        require(0 <= ends <= 1, f"ends is {ends:g}: give a probability")
        random = np.random.default_rng(seed)
        is_target = np.zeros((self.vocabulary_size, len(targets)))
        for column, target in enumerate(targets):
            is_target[list(target), column] = 1
        state, cell, token = self._read(self._latest(history))
        states = np.repeat(state[None], continuations, axis=0)
        cells = np.repeat(cell[None], continuations, axis=0)
        tokens = np.full(continuations, token)
        missed = np.ones((continuations, len(targets)), dtype=bool)
        survival, by_step = np.ones(len(targets)), np.empty((steps, len(targets)))
        for step in range(steps):
            if step:
                states, cells = self._advance(states, cells, tokens)
                if ends and (over := random.random(continuations) < ends).any():
                    tokens = np.where(over, BOUNDARY, tokens)
                    states[over], cells[over] = self._advance(
                        states[over], cells[over], tokens[over]
                    )
            likely = self._next(states, tokens)
            chance = (missed * (likely @ is_target)).sum(axis=0) / missed.sum(axis=0).clip(1)
            survival = survival * (1 - chance).clip(0, 1)
            by_step[step] = 1 - survival
            if step + 1 < steps:
                summed = likely.cumsum(axis=1)
                drawn = random.random(continuations)[:, None] * summed[:, -1:]
                tokens = (summed <= drawn).sum(axis=1)
                tokens = tokens.clip(FIRST_CATEGORY, self.vocabulary_size - 1)
                missed &= is_target[tokens] == 0
        return by_step

    def _latest(self, history: Sequence[int]) -> list[int]:
        """Return the latest tokens of a history, the boundary for none.

        Raises:
            VocabularyError: A token lies outside the vocabulary.
        """
        tokens = list(history[-_CONTEXT_TOKENS:]) or [BOUNDARY]
        if not all(0 <= token < self.vocabulary_size for token in tokens):
            raise VocabularyError(f"the history has a token outside 0..{self.vocabulary_size - 1}")
        return tokens

    def _read(self, tokens: Sequence[int]) -> tuple[Floats, Floats, int]:
        state = cell = np.zeros(self.hidden, dtype=np.float32)
        for token in tokens:
            state, cell = self._advance(state, cell, np.array(token))
        return state, cell, tokens[-1]

    def _advance(
        self, state: Floats, cell: Floats, token: NDArray[np.signedinteger]
    ) -> tuple[Floats, Floats]:
        gates = self._table[token] @ self._from_input.T + state @ self._from_state.T + self._bias
        input_gate, forget_gate, candidate, output_gate = np.split(gates, 4, axis=-1)
        cell = _sigmoid(forget_gate) * cell + _sigmoid(input_gate) * np.tanh(candidate)
        return _sigmoid(output_gate) * np.tanh(cell), cell

    def _logits(self, state: Floats, token: NDArray[np.signedinteger] | int) -> Floats:
        features = np.concatenate([state, self._table[token]], axis=-1)
        logits: Floats = features @ self._out.T + self._out_bias
        return logits

    def _next(self, state: Floats, token: NDArray[np.int64] | int) -> NDArray[np.float64]:
        logits = self._logits(state, token).astype(np.float64) / self.temperature
        likely = np.exp(logits - logits.max(axis=-1, keepdims=True))
        likely /= likely.sum(axis=-1, keepdims=True)
        reserved = np.zeros((*likely.shape[:-1], FIRST_CATEGORY))
        return np.concatenate([reserved, likely], axis=-1)


def fit_temperature(logits: NDArray[np.floating], answers: NDArray[np.int64]) -> float:
    """Return the temperature with the highest likelihood of the answers.

    Guo et al., "On calibration of modern neural networks", ICML 2017. Golden section search
    between 0.2 and 5; ranks do not change.

    Logits ``[questions, categories]`` and answers are those of `IntentPredictor.questions`.

    Raises:
        SettingsError: There is no question.
    """
    require(len(answers) > 0, "there is no question to fit a temperature to: give held-out visits")

    def loss(log_temperature: float) -> float:
        return mean_loss(logits, answers, float(np.exp(log_temperature)))

    low, high, golden = np.log(0.2), np.log(5.0), (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


def mean_loss(
    logits: NDArray[np.floating], answers: NDArray[np.int64], temperature: float = 1.0
) -> float:
    """Return the mean -log p(answer) in nats; arguments as in `fit_temperature`."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    right = scaled[np.arange(len(answers)), answers]
    return float((np.log(np.exp(scaled).sum(axis=1)) - right).mean())


def mean_curvature(
    model: IntentPredictor, questions: Windows, *, noise: float, draws: int = 20, seed: int = 0
) -> float:
    """Estimate the mean diagonal of the Hessian of the loss at one width of noise.

    Noise of width s on each of n parameters costs ``n * curvature * s^2 / 2`` to second order; the
    result is the curvature that makes this exact at the given width. Each draw is both added and
    subtracted, so the first order cancels.

    Args:
        model: Trained model.
        questions: Questions from data that are not private.
        noise: Width of the noise, best `TrainingPlan.model_noise`.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        Curvature in nats, for `TrainingPlan.expected_loss`.

    Raises:
        SettingsError: The width or the draws are out of range, or there is no question.
    """
    require(noise > 0 and draws >= 1, "noise must be above 0 and draws at least 1")
    require(questions.steps > 0, "there is no question to measure a loss on: give held-out visits")
    random, size = np.random.default_rng(seed), model.weights.size
    losses: list[float] = []
    for _ in range(draws):
        offset = random.normal(0.0, noise, size).astype(np.float32)
        losses += [
            model.replaced(weights).loss(questions)
            for weights in (model.weights + offset, model.weights - offset)
        ]
    return 2 * (float(np.mean(losses)) - model.loss(questions)) / (size * noise**2)


def _sigmoid(x: Floats) -> Floats:
    # By tanh, which does not overflow at either tail.
    result: Floats = 0.5 * (1 + np.tanh(0.5 * x))
    return result
