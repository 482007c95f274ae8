"""Export of the intent model as a TorchScript program for torch's mobile runtime.

Devices do not need it: `IntentPredictor` computes the same in numpy. The program contains the
weights and is not signed; devices receive models as signed packages, and an app
ships a program only as part of itself. Other runtimes read the ONNX export.
"""

from __future__ import annotations

import io
import warnings

from tactful_federated.errors import missing_extra
from tactful_federated.model.lstm_numpy import require_temperature
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.tokens import FIRST_CATEGORY
from tactful_federated.model.vectors import Vector

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ModuleNotFoundError as error:
    raise missing_extra(error) from error


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
    model = IntentModel(vocabulary_size, embedding=embedding, hidden=hidden)
    model.load_vector(weights)
    module = _NextToken(model, temperature).eval().requires_grad_(requires_grad=False)
    out = io.BytesIO()
    with warnings.catch_warnings():
        # Torch deprecates this format, but its mobile runtime reads no other.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), out)
    return out.getvalue()
