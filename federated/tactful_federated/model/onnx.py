"""Export of the intent model as an ONNX graph for any ONNX runtime.

The graph is written from the flat vector, without torch. It contains the weights and is not
signed: devices receive models as signed packages, and an app ships a graph only as part of
itself.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tactful_federated.errors import extra
from tactful_federated.model.lstm_numpy import require_temperature
from tactful_federated.model.tokens import FIRST_CATEGORY
from tactful_federated.model.vectors import Vector, checked_layers

with extra("onnx"):
    from onnx import NodeProto, TensorProto, checker, helper, numpy_helper

OPSET: Final = 17
"""Version of the operator set; runtimes support it since 2022."""

_IR_VERSION = 8


def to_onnx(
    weights: Vector,
    vocabulary_size: int,
    *,
    embedding: int = 32,
    hidden: int = 32,
    temperature: float = 1.0,
) -> bytes:
    """Return an ONNX graph that computes `IntentPredictor.predict`.

    Its input is `tokens`, int64 `[rows, length]`; its output is `likely`, float32
    `[rows, vocabulary]`, the probability of each token to come next.

    Args:
        weights: Flat float32, in the order of `IntentModel.vector`.
        vocabulary_size: Number of tokens, including reserved ones.
        embedding: Width of a token's vector.
        hidden: Width of the LSTM state.
        temperature: Divisor of the logits, above 0; see `fit_temperature`.

    Raises:
        WeightsError: The vector does not fit.
        SettingsError: The temperature is out of range.
    """
    require_temperature(temperature)
    table, into, back, into_bias, back_bias, out, out_bias = checked_layers(
        weights, vocabulary_size, embedding, hidden
    )
    constants = {
        "table": table,
        "into": _gates(into)[None],
        "back": _gates(back)[None],
        "bias": np.concatenate([_gates(into_bias), _gates(back_bias)])[None],
        "out": out,
        "out_bias": out_bias,
        "temperature": np.float32(temperature),
        "first": np.array([0], dtype=np.int64),
        "last": np.array(-1, dtype=np.int64),
        "reserved": np.array([0, FIRST_CATEGORY, 0, 0], dtype=np.int64),
    }
    graph = helper.make_graph(
        _nodes(hidden),
        "intent",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["rows", "length"])],
        [helper.make_tensor_value_info("likely", TensorProto.FLOAT, ["rows", vocabulary_size])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION
    )
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _nodes(hidden: int) -> list[NodeProto]:
    """Return the operators; the LSTM reads `[length, rows, width]`, time first."""
    return [
        helper.make_node("Gather", ["table", "tokens"], ["rows_first"]),
        helper.make_node("Transpose", ["rows_first"], ["embedded"], perm=[1, 0, 2]),
        helper.make_node(
            "LSTM", ["embedded", "into", "back", "bias"], ["", "states"], hidden_size=hidden
        ),
        helper.make_node("Squeeze", ["states", "first"], ["state"]),
        helper.make_node("Gather", ["embedded", "last"], ["current"]),
        helper.make_node("Concat", ["state", "current"], ["seen"], axis=1),
        helper.make_node("Gemm", ["seen", "out", "out_bias"], ["logits"], transB=1),
        helper.make_node("Div", ["logits", "temperature"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["categories"], axis=1),
        helper.make_node("Pad", ["categories", "reserved"], ["likely"]),
    ]


def _gates(stacked: Vector) -> Vector:
    """Reorder gates from torch (input, forget, cell, output) to ONNX (i, o, f, c)."""
    input_gate, forget_gate, cell, output_gate = np.split(stacked, 4)
    return np.concatenate([input_gate, output_gate, forget_gate, cell])
