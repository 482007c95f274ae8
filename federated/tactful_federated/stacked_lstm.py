"""The intent model of many devices at once: loss and gradient, with numpy alone.

Every array has one axis for devices, each of which has weights of its own, so one operation serves
a whole cohort. A model of 20,000 parameters is too small to pay for a library that differentiates:
loading it takes ten times the memory of a thousand devices, and each of its operations longer than
what it computes.

The formulas are those of Hochreiter & Schmidhuber, "Long short-term memory", 1997, with forget
gates, in the order of `torch.nn.LSTM` (input, forget, cell, output); a test compares the gradient
with that of `IntentModel`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful_federated.tokens import FIRST_CATEGORY, PAD
from tactful_federated.vectors import layer_shapes, layers, parameter_count

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]

_ONE = np.float32(1.0)


class _Trace(NamedTuple):
    """What the forward pass leaves for the backward one; each is `[devices, length, rows, …]`."""

    gates: Floats
    cells: Floats
    squashed: Floats
    states: Floats


class StackedModel:
    """Loss and gradient of an `IntentModel` for a stack of devices.

    Args:
        vocabulary_size: Tokens, reserved ones included.
        embedding: Width of a token's vector.
        hidden: Width of the LSTM state.
    """

    def __init__(self, vocabulary_size: int, *, embedding: int = 32, hidden: int = 32) -> None:
        """Lay the layers out."""
        self._shapes = layer_shapes(vocabulary_size, embedding=embedding, hidden=hidden)
        self.size = parameter_count(vocabulary_size, embedding=embedding, hidden=hidden)
        self._vocabulary, self._hidden = vocabulary_size, hidden
        # sigmoid(x) = (1 + tanh(x / 2)) / 2: so all four gates are one call, and none overflows.
        half = np.full(4 * hidden, 0.5, dtype=np.float32)
        half[2 * hidden : 3 * hidden] = 1.0
        self._scale, self._shift = half, _ONE - half

    def gradient(self, weights: Floats, inputs: Tokens, answers: Tokens) -> Floats:
        """Gradient of each device's mean loss, in nats, by its own weights.

        Args:
            weights: `[devices, size]`.
            inputs: Tokens, `[devices, rows, length]`.
            answers: Of the same shape; `PAD` is not asked. Each device is asked something.

        Returns:
            Of the shape of `weights`.
        """
        table, into, back, bias1, bias2, out, out_bias = layers(weights, self._shapes)
        gradient = np.empty_like(weights)
        d_table, d_into, d_back, d_bias1, d_bias2, d_out, d_out_bias = layers(
            gradient, self._shapes
        )
        devices, rows, length = inputs.shape
        width, steps = table.shape[-1], rows * length
        # Time before rows, so that a step of all rows lies together.
        read = inputs.transpose(0, 2, 1).reshape(devices, steps)
        asked = answers.transpose(0, 2, 1).reshape(devices, steps)
        embedded = table[np.arange(devices)[:, None], read]
        arriving = embedded @ into.transpose(0, 2, 1)
        arriving += (bias1 + bias2)[:, None, :]
        trace = self._forward(arriving.reshape(devices, length, rows, -1), back)

        positions, truth, share = _questions(asked)
        beside = np.arange(devices)[:, None]
        after = trace.states[:, 1:].reshape(devices, steps, -1)
        seen = np.concatenate([after[beside, positions], embedded[beside, positions]], axis=2)
        error = seen @ out.transpose(0, 2, 1)
        error += out_bias[:, None, :]
        _softmax(error)
        error[beside, np.arange(truth.shape[1]), truth] -= _ONE
        error *= share[:, :, None]
        np.matmul(error.transpose(0, 2, 1), seen, out=d_out)
        error.sum(axis=1, out=d_out_bias)

        d_seen = error @ out
        d_states = np.zeros((devices, steps, self._hidden), dtype=np.float32)
        d_embedded = np.zeros((devices, steps, width), dtype=np.float32)
        # Positions differ, and where none is asked the error is 0.
        d_states[beside, positions] = d_seen[..., : self._hidden]
        d_embedded[beside, positions] = d_seen[..., self._hidden :]

        d_gates = self._backward(trace, d_states.reshape(devices, length, rows, -1), back)
        d_gates = d_gates.reshape(devices, steps, -1)
        turned = d_gates.transpose(0, 2, 1)
        before = trace.states[:, :-1].reshape(devices, steps, -1)
        np.matmul(turned, embedded, out=d_into)
        np.matmul(turned, before, out=d_back)
        d_gates.sum(axis=1, out=d_bias1)
        d_bias2[...] = d_bias1
        d_embedded += d_gates @ into
        self._scatter(d_embedded, read, d_table)
        return gradient

    def _forward(self, arriving: Floats, back: Floats) -> _Trace:
        """States after each step; `arriving` becomes the gates."""
        devices, length, rows, _ = arriving.shape
        hidden, turned = self._hidden, back.transpose(0, 2, 1)
        cells, states = np.zeros((2, devices, length + 1, rows, hidden), dtype=np.float32)
        squashed = np.empty((devices, length, rows, hidden), dtype=np.float32)
        for t in range(length):
            gates = arriving[:, t]
            gates += states[:, t] @ turned
            gates *= self._scale
            np.tanh(gates, out=gates)
            gates *= self._scale
            gates += self._shift
            entry, forget, value, leaving = np.split(gates, 4, axis=2)
            cell = cells[:, t + 1]
            np.multiply(forget, cells[:, t], out=cell)
            cell += entry * value
            np.tanh(cell, out=squashed[:, t])
            np.multiply(leaving, squashed[:, t], out=states[:, t + 1])
        return _Trace(arriving, cells, squashed, states)

    def _backward(self, trace: _Trace, d_states: Floats, back: Floats) -> Floats:
        """Gradient by what goes into the gates, before they are squashed."""
        entry, forget, value, leaving = np.split(trace.gates, 4, axis=3)
        squashed, length = trace.squashed, trace.gates.shape[1]
        # What does not hang on later steps is taken for all steps at once.
        d_gates = np.empty_like(trace.gates)
        by_cell = leaving * (_ONE - squashed * squashed)
        parts = np.split(d_gates, 4, axis=3)
        np.multiply(value, entry * (_ONE - entry), out=parts[0])
        np.multiply(trace.cells[:, :-1], forget * (_ONE - forget), out=parts[1])
        np.multiply(entry, _ONE - value * value, out=parts[2])
        np.multiply(squashed, leaving * (_ONE - leaving), out=parts[3])
        d_cell = np.zeros_like(d_states[:, 0])
        for t in reversed(range(length)):
            d_state = d_states[:, t]
            if t + 1 < length:
                d_state = d_state + d_gates[:, t + 1] @ back
            d_cell += d_state * by_cell[:, t]
            for part in parts[:3]:
                part[:, t] *= d_cell
            parts[3][:, t] *= d_state
            d_cell *= forget[:, t]
        return d_gates

    def _scatter(self, d_embedded: Floats, read: Tokens, d_table: Floats) -> None:
        """Add up what goes back to each token's vector; padding is never learnt."""
        devices, steps = read.shape
        rows = (np.arange(devices)[:, None] * self._vocabulary + read).reshape(-1)
        order = np.argsort(rows, kind="stable")
        sorted_rows = rows[order]
        first = np.flatnonzero(np.diff(sorted_rows, prepend=-1))
        sums = np.add.reduceat(d_embedded.reshape(devices * steps, -1)[order], first, axis=0)
        device, token = np.divmod(sorted_rows[first], self._vocabulary)
        d_table[...] = 0
        d_table[device, token] = sums
        d_table[:, PAD] = 0


def _questions(answers: Tokens) -> tuple[Tokens, Tokens, Floats]:
    """Where each device is asked, what is right, and its share of the mean; filled up with 0."""
    asked = answers != PAD
    counts = asked.sum(axis=1, keepdims=True)
    most = int(counts.max())
    positions = np.argsort(~asked, axis=1, kind="stable")[:, :most]
    real = np.arange(most) < counts
    truth = np.take_along_axis(answers, positions, axis=1) - FIRST_CATEGORY
    return positions, np.where(real, truth, 0), (real / counts).astype(np.float32)


def _softmax(logits: Floats) -> None:
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
