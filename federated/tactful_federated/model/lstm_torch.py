"""The intent model in torch: a small LSTM that ranks the next category of a visit."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import SettingsError, VocabularyError, extra
from tactful_federated.model.lstm_numpy import require_temperature
from tactful_federated.model.tokens import BOUNDARY, FIRST_CATEGORY, PAD
from tactful_federated.model.vectors import Vector, check_vector, parameter_count

with extra():
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

MAX_PARAMETERS: Final = 50_000
"""Largest model: phones train, send and receive it every round."""

_CONTEXT_TOKENS = 256


class IntentModel(nn.Module):
    """Embedding, one LSTM layer (Hochreiter & Schmidhuber, 1997), one linear layer.

    The output layer reads the LSTM state *and* the embedding of the current token: first-order
    transitions are learnt fast, and the capacity of the LSTM is left for the longer history.

        tokens [rows, length] -> embedding -> LSTM -> [state | embedding] -> linear -> logits

    Args:
        vocabulary_size: Number of tokens, including reserved ones, at least 4.
        embedding: Width of a token's vector, at least 1.
        hidden: Width of the LSTM state, at least 1.
        seed: Seed of the initial weights; the state of the global generator is unchanged.

    Raises:
        SettingsError: A size is out of range, or the model would exceed `MAX_PARAMETERS`.
    """

    def __init__(
        self, vocabulary_size: int, embedding: int = 32, hidden: int = 32, *, seed: int = 0
    ) -> None:
        """Build the layers and draw their initial weights."""
        super().__init__()
        if vocabulary_size <= FIRST_CATEGORY or embedding < 1 or hidden < 1:
            raise SettingsError(
                f"an intent model needs vocabulary_size > {FIRST_CATEGORY}, embedding >= 1 and "
                f"hidden >= 1, not {vocabulary_size}, {embedding}, {hidden}"
            )
        size = parameter_count(vocabulary_size, embedding, hidden)
        if size > MAX_PARAMETERS:
            raise SettingsError(
                f"{vocabulary_size} tokens at embedding {embedding} and hidden {hidden} make "
                f"{size} parameters, more than {MAX_PARAMETERS}; use a coarser catalogue or "
                "narrower layers"
            )
        self.vocabulary_size = vocabulary_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(vocabulary_size, embedding, padding_idx=PAD)
            self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
            self.output = nn.Linear(hidden + embedding, vocabulary_size - FIRST_CATEGORY)
        with torch.no_grad():
            self.embedding.weight.mul_(0.5)

    def forward(self, inputs: Tensor, asked: Tensor) -> Tensor:
        """Return logits of the categories (token - 3) at the positions asked.

        Inputs are tokens, int64 `[rows, length]`; `asked`, bool of this shape, is true where the
        next category is asked. Logits are float32 `[number asked, categories]`, in row-major order.
        """
        embedded = self.embedding(inputs)
        states, _ = self.lstm(embedded)
        logits: Tensor = self.output(torch.cat([states[asked], embedded[asked]], dim=-1))
        return logits

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def vector(self) -> Vector:
        """Return all parameters as a new flat float32 vector, in order of definition."""
        flat: Tensor = nn.utils.parameters_to_vector(self.parameters())
        return flat.detach().numpy().copy()

    def load_vector(self, weights: Vector) -> None:
        """Copy a flat vector into the parameters.

        Raises:
            WeightsError: Wrong dtype or shape, or a value that is not finite.
        """
        flat = torch.from_numpy(check_vector(weights, self.size).copy())
        nn.utils.vector_to_parameters(flat, self.parameters())

    def predict(self, history: Sequence[int]) -> NDArray[np.float64]:
        """Return the probability of each token to come next, float64 `[vocabulary_size]`.

        Tokens are given oldest first, and the last 256 are read; an empty history predicts the lead
        category of a first visit. Probabilities sum to 1; reserved tokens get 0.

        Raises:
            VocabularyError: A token lies outside the vocabulary.
        """
        tokens = list(history[-_CONTEXT_TOKENS:]) or [BOUNDARY]
        if not all(0 <= token < self.vocabulary_size for token in tokens):
            raise VocabularyError(f"the history has a token outside 0..{self.vocabulary_size - 1}")
        with torch.no_grad():
            inputs = torch.tensor([tokens], dtype=torch.int64)
            last = torch.arange(len(tokens))[None] == len(tokens) - 1
            probabilities = torch.softmax(self(inputs, last)[0].double(), dim=-1).numpy()
        return np.concatenate([np.zeros(FIRST_CATEGORY), probabilities])


class _NextToken(nn.Module):
    """Map tokens, int64 `[rows, length]`, to probabilities `[rows, vocabulary]`."""

    def __init__(self, model: IntentModel, temperature: float) -> None:
        super().__init__()
        self.embedding, self.lstm, self.output = model.embedding, model.lstm, model.output
        self.temperature, self.reserved = temperature, FIRST_CATEGORY

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embedding(tokens)
        states, _ = self.lstm(embedded)
        logits = self.output(torch.cat([states[:, -1], embedded[:, -1]], dim=-1))
        probabilities = torch.softmax(logits / self.temperature, dim=-1)
        return functional.pad(probabilities, (self.reserved, 0))


def to_torchscript(
    weights: Vector,
    vocabulary_size: int,
    *,
    embedding: int = 32,
    hidden: int = 32,
    temperature: float = 1.0,
) -> bytes:
    """Return a program for `torch.jit.load`: tokens to probabilities of the next one.

    Args:
        weights: Flat float32, in the order of `IntentModel.vector`.
        vocabulary_size: Number of tokens, including reserved ones.
        embedding: Width of a token's vector.
        hidden: Width of the LSTM state.
        temperature: Divisor of the logits, above 0; see `fit_temperature`.

    Raises:
        WeightsError: The vector does not fit.
        SettingsError: A size or the temperature is out of range.
    """
    require_temperature(temperature)
    model = IntentModel(vocabulary_size, embedding, hidden)
    model.load_vector(weights)
    module = _NextToken(model, temperature).eval().requires_grad_(requires_grad=False)
    out = io.BytesIO()
    with warnings.catch_warnings():
        # Torch deprecates this format, but its mobile runtime reads no other.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), out)
    return out.getvalue()
