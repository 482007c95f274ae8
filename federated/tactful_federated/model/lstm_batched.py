"""Loss and gradient of the intent model for many devices at once, in numpy.

Each array has an axis for devices, each with its own weights, so one operation serves a cohort. An
automatic differentiation library does not pay for 20,000 parameters: loading it takes ten times the
memory of a thousand devices, and its overhead for each operation exceeds the computation.

The formulas are those of Hochreiter & Schmidhuber, "Long short-term memory", 1997, with forget
gates, in the order of `torch.nn.LSTM` (input, forget, cell, output); a test compares the gradient
with that of `IntentModel`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful_federated.model.tokens import FIRST_CATEGORY, PAD
from tactful_federated.model.vectors import layer_shapes, layers, parameter_count

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]

_ONE = np.float32(1.0)


class _Trace(NamedTuple):
    """Results of the forward pass for the backward pass, `[devices, length, rows, …]`."""

    gates: Floats
    cells: Floats
    squashed: Floats
    states: Floats


class StackedModel:
    """Loss and gradient of an `IntentModel` for a stack of devices."""

    def __init__(self, vocabulary_size: int, embedding: int = 32, hidden: int = 32) -> None:
        """Compute the shapes of the layers."""
        self.shapes = layer_shapes(vocabulary_size, embedding, hidden)
        self.size = parameter_count(vocabulary_size, embedding, hidden)
        self._vocabulary, self._hidden = vocabulary_size, hidden
        # sigmoid(x) = (1 + tanh(x / 2)) / 2: one tanh call for all four gates, without overflow.
        half = np.full(4 * hidden, 0.5, dtype=np.float32)
        half[2 * hidden : 3 * hidden] = 1.0
        self._scale, self._shift = half, _ONE - half

    def gradient(self, weights: Floats, inputs: Tokens, answers: Tokens) -> Floats:
        """Return the gradient of the mean loss of each device by its weights, in nats.

        Weights and gradient are `[devices, size]`; inputs and answers are tokens,
        `[devices, rows, length]`. `PAD` is not asked, and each device has at least one answer.
        """
        table, input_weights, recurrent_weights, bias1, bias2, out, out_bias = layers(
            weights, self.shapes
        )
        gradient = np.empty_like(weights)
        d_table, d_input_weights, d_recurrent_weights, d_bias1, d_bias2, d_out, d_out_bias = layers(
            gradient, self.shapes
        )
        devices, rows, length = inputs.shape
        width, steps = table.shape[-1], rows * length
        # [devices, rows, length] -> [devices, length * rows]: a step of all rows is contiguous.
        tokens = inputs.transpose(0, 2, 1).reshape(devices, steps)
        asked = answers.transpose(0, 2, 1).reshape(devices, steps)
        embedded = table[np.arange(devices)[:, None], tokens]
        gate_inputs = embedded @ input_weights.transpose(0, 2, 1)
        gate_inputs += (bias1 + bias2)[:, None, :]
        trace = self._forward(gate_inputs.reshape(devices, length, rows, -1), recurrent_weights)

        # Output layer at the questions only; the error of softmax and log loss is p - truth.
        positions, truth, weight = _questions(asked)
        device_axis = np.arange(devices)[:, None]
        states_after = trace.states[:, 1:].reshape(devices, steps, -1)
        features = np.concatenate(
            [states_after[device_axis, positions], embedded[device_axis, positions]], axis=2
        )
        error = features @ out.transpose(0, 2, 1)
        error += out_bias[:, None, :]
        _softmax(error)
        error[device_axis, np.arange(truth.shape[1]), truth] -= _ONE
        error *= weight[:, :, None]
        np.matmul(error.transpose(0, 2, 1), features, out=d_out)
        error.sum(axis=1, out=d_out_bias)

        d_features = error @ out
        d_states = np.zeros((devices, steps, self._hidden), dtype=np.float32)
        d_embedded = np.zeros((devices, steps, width), dtype=np.float32)
        # Positions are distinct; the error of padded ones is 0.
        d_states[device_axis, positions] = d_features[..., : self._hidden]
        d_embedded[device_axis, positions] = d_features[..., self._hidden :]

        # Back through time, then from the gates to weights, states and embeddings.
        d_gates = self._backward(
            trace, d_states.reshape(devices, length, rows, -1), recurrent_weights
        )
        d_gates = d_gates.reshape(devices, steps, -1)
        transposed = d_gates.transpose(0, 2, 1)
        states_before = trace.states[:, :-1].reshape(devices, steps, -1)
        np.matmul(transposed, embedded, out=d_input_weights)
        np.matmul(transposed, states_before, out=d_recurrent_weights)
        d_gates.sum(axis=1, out=d_bias1)
        d_bias2[...] = d_bias1
        d_embedded += d_gates @ input_weights
        self._scatter(d_embedded, tokens, d_table)
        return gradient

    def _forward(self, gate_inputs: Floats, recurrent_weights: Floats) -> _Trace:
        """Return the states after each step; overwrites `gate_inputs` with the gates."""
        devices, length, rows, _ = gate_inputs.shape
        hidden, transposed = self._hidden, recurrent_weights.transpose(0, 2, 1)
        cells, states = np.zeros((2, devices, length + 1, rows, hidden), dtype=np.float32)
        squashed = np.empty((devices, length, rows, hidden), dtype=np.float32)
        for t in range(length):
            gates = gate_inputs[:, t]
            gates += states[:, t] @ transposed
            gates *= self._scale
            np.tanh(gates, out=gates)
            gates *= self._scale
            gates += self._shift
            input_gate, forget_gate, candidate, output_gate = np.split(gates, 4, axis=2)
            cell = cells[:, t + 1]
            np.multiply(forget_gate, cells[:, t], out=cell)
            cell += input_gate * candidate
            np.tanh(cell, out=squashed[:, t])
            np.multiply(output_gate, squashed[:, t], out=states[:, t + 1])
        return _Trace(gate_inputs, cells, squashed, states)

    def _backward(self, trace: _Trace, d_states: Floats, recurrent_weights: Floats) -> Floats:
        """Return the gradient by the gate inputs, before their activation."""
        input_gate, forget_gate, candidate, output_gate = np.split(trace.gates, 4, axis=3)
        squashed, length = trace.squashed, trace.gates.shape[1]
        # Factors that do not depend on later steps are computed for all steps at once.
        d_gates = np.empty_like(trace.gates)
        by_cell = output_gate * (_ONE - squashed * squashed)
        parts = np.split(d_gates, 4, axis=3)
        np.multiply(candidate, input_gate * (_ONE - input_gate), out=parts[0])
        np.multiply(trace.cells[:, :-1], forget_gate * (_ONE - forget_gate), out=parts[1])
        np.multiply(input_gate, _ONE - candidate * candidate, out=parts[2])
        np.multiply(squashed, output_gate * (_ONE - output_gate), out=parts[3])
        d_cell = np.zeros_like(d_states[:, 0])
        for t in reversed(range(length)):
            d_state = d_states[:, t]
            if t + 1 < length:
                d_state = d_state + d_gates[:, t + 1] @ recurrent_weights
            d_cell += d_state * by_cell[:, t]
            for part in parts[:3]:
                part[:, t] *= d_cell
            parts[3][:, t] *= d_state
            d_cell *= forget_gate[:, t]
        return d_gates

    def _scatter(self, d_embedded: Floats, tokens: Tokens, d_table: Floats) -> None:
        """Sum the gradients of each token's vector; the gradient of `PAD` is 0."""
        devices, steps = tokens.shape
        # Sort by (device, token), so that each run of equal rows is one sum.
        rows = (np.arange(devices)[:, None] * self._vocabulary + tokens).reshape(-1)
        order = np.argsort(rows, kind="stable")
        sorted_rows = rows[order]
        first = np.flatnonzero(np.diff(sorted_rows, prepend=-1))
        sums = np.add.reduceat(d_embedded.reshape(devices * steps, -1)[order], first, axis=0)
        device, token = np.divmod(sorted_rows[first], self._vocabulary)
        d_table[...] = 0
        d_table[device, token] = sums
        d_table[:, PAD] = 0


def _questions(answers: Tokens) -> tuple[Tokens, Tokens, Floats]:
    """Return positions, right categories and weights of the questions of each device.

    All three are `[devices, most questions]`; padding has the weight 0.
    """
    asked = answers != PAD
    counts = asked.sum(axis=1, keepdims=True)
    width = int(counts.max())
    positions = np.argsort(~asked, axis=1, kind="stable")[:, :width]
    is_asked = np.arange(width) < counts
    truth = np.take_along_axis(answers, positions, axis=1) - FIRST_CATEGORY
    return positions, np.where(is_asked, truth, 0), (is_asked / counts).astype(np.float32)


def _softmax(logits: Floats) -> None:
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
