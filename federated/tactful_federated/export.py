"""The intent model as a TorchScript program, for apps that run torch's mobile runtime.

A device needs none of it: `IntentPredictor` computes the same with numpy. The program has the
weights inside and is not signed, so devices get models as packages (`model_package.py`), and an app
ships a program only as part of itself. For other runtimes there is `onnx_export.py`.
"""

from __future__ import annotations

import io
import warnings

from tactful_federated.errors import missing_extra
from tactful_federated.inference import require_temperature
from tactful_federated.model import IntentModel
from tactful_federated.tokens import FIRST_CATEGORY
from tactful_federated.vectors import Vector

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ModuleNotFoundError as error:
    raise missing_extra(error) from error


class _Next(nn.Module):
    """Tokens so far, int64 `[rows, length]`, to probabilities `[rows, vocabulary]` of the next."""

    def __init__(self, model: IntentModel, temperature: float) -> None:
        super().__init__()
        self.embedding, self.lstm, self.output = model.embedding, model.lstm, model.output
        self.temperature, self.reserved = temperature, FIRST_CATEGORY

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embedding(tokens)
        states, _ = self.lstm(embedded)
        logits = self.output(torch.cat([states[:, -1], embedded[:, -1]], dim=-1))
        likely = torch.softmax(logits / self.temperature, dim=-1)
        return functional.pad(likely, (self.reserved, 0))


def to_torchscript(
    weights: Vector,
    vocabulary_size: int,
    *,
    embedding: int = 32,
    hidden: int = 32,
    temperature: float = 1.0,
) -> bytes:
    """What `torch.jit.load` reads: tokens so far to the probability of each token to come next.

    Args:
        weights: Flat float32, in the order of `IntentModel.vector`.
        vocabulary_size: Tokens, reserved ones included.
        embedding: Width of a token's vector.
        hidden: Width of the LSTM state.
        temperature: Logits are divided by it, above 0; see `fit_temperature`.

    Raises:
        WeightsError: The vector does not fit.
        SettingsError: A size or the temperature is out of range.
    """
    require_temperature(temperature)
    model = IntentModel(vocabulary_size, embedding=embedding, hidden=hidden)
    model.load_vector(weights)
    module = _Next(model, temperature).eval().requires_grad_(requires_grad=False)
    out = io.BytesIO()
    with warnings.catch_warnings():
        # Torch wants programs in another format, which its mobile runtime of today does not read.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), out)
    return out.getvalue()
