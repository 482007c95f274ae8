"""Export of a BERT sentence encoder as an ONNX graph, from its weights and without torch.

Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers" (NAACL
2019). The sentence vector is the mean over the tokens, scaled to length 1: Reimers and Gurevych,
"Sentence-BERT" (EMNLP 2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, checker, helper, numpy_helper

_OPSET = 17
_IR_VERSION = 8
_EPSILON = 1e-12  # of every layer normalisation

Weights = Mapping[str, NDArray[Any]]
"""Tensors by their names in a checkpoint of BERT."""


def bert_to_onnx(weights: Weights, heads: int) -> bytes:
    """Return an ONNX graph that computes sentence vectors.

    Its inputs are `input_ids` and `attention_mask`, int64 `[rows, length]`; its output is
    `sentence`, float32 `[rows, width]`, of length 1.

    Args:
        weights: tensors of a `BertModel`, float32.
        heads: attention heads of each layer.

    Raises:
        KeyError: if a tensor is missing.
    """
    width = weights["embeddings.word_embeddings.weight"].shape[1]
    graph = _Graph(weights, heads, width // heads)
    graph.embed()
    layers = {name.split(".")[2] for name in weights if name.startswith("encoder.layer.")}
    for number in range(len(layers)):
        graph.layer(f"encoder.layer.{number}")
    graph.pool()
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("sentence", TensorProto.FLOAT, ["rows", width])
    constants = [numpy_helper.from_array(value, name) for name, value in graph.constants.items()]
    made = helper.make_graph(graph.nodes, "bert", inputs, [output], constants)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    checker.check_model(model)
    return bytes(model.SerializeToString())


class _Graph:
    """Operators and constants so far; `self.state` names the present tensor of tokens."""

    def __init__(self, weights: Weights, heads: int, size: int) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.state = ""
        self._weights = weights
        # [rows, length, width] -> [rows, length, heads, size], and back
        self._split = self._constant("split", np.array([0, 0, heads, size], np.int64))
        self._join = self._constant("join", np.array([0, 0, heads * size], np.int64))
        self._scale = self._constant("scale", np.float32(1.0 / math.sqrt(size)))
        self._bias = ""  # added to attention scores: 0 for tokens, very negative for padding

    def embed(self) -> None:
        """Add the vectors of words, positions and the first segment, and the mask."""
        words = self._node("Gather", self._weight("embeddings.word_embeddings.weight"), "input_ids")
        places = self._weights["embeddings.position_embeddings.weight"]
        segment = self._weights["embeddings.token_type_embeddings.weight"][0]
        shape = self._node("Shape", "input_ids")
        one = self._constant("one", np.array([1], np.int64))
        length = self._node("Slice", shape, one, self._constant("two", np.array([2], np.int64)))
        zero = self._constant("zero", np.array([0], np.int64))
        table = self._constant("places", (places + segment).astype(np.float32))
        there = self._node("Slice", table, zero, length, zero)
        self.state = self._norm("embeddings.LayerNorm", self._node("Add", words, there))
        mask = self._node("Cast", "attention_mask", to=TensorProto.FLOAT)
        axes = self._constant("head_axes", np.array([1, 2], np.int64))
        away = self._node("Sub", self._constant("unit", np.float32(1.0)), mask)
        lowest = self._constant("lowest", np.float32(-1e9))
        self._bias = self._node("Unsqueeze", self._node("Mul", away, lowest), axes)
        self._mask = self._node("Unsqueeze", mask, self._constant("last", np.array([2], np.int64)))

    def layer(self, name: str) -> None:
        """Add attention and the two dense layers of one block."""
        inner = f"{name}.attention.self"
        query, key, value = (
            self._node("Reshape", self._dense(f"{inner}.{part}", self.state), self._split)
            for part in ("query", "key", "value")
        )
        query = self._node("Transpose", query, perm=[0, 2, 1, 3])
        key = self._node("Transpose", key, perm=[0, 2, 3, 1])
        value = self._node("Transpose", value, perm=[0, 2, 1, 3])
        scores = self._node("Mul", self._node("MatMul", query, key), self._scale)
        shares = self._node("Softmax", self._node("Add", scores, self._bias), axis=-1)
        mixed = self._node("Transpose", self._node("MatMul", shares, value), perm=[0, 2, 1, 3])
        mixed = self._node("Reshape", mixed, self._join)
        self._add_and_norm(f"{name}.attention.output", mixed)
        self._add_and_norm(
            f"{name}.output", self._gelu(self._dense(f"{name}.intermediate.dense", self.state))
        )

    def pool(self) -> None:
        """Add the mean over the tokens, scaled to length 1."""
        axis = self._constant("over", np.array([1], np.int64))
        total = self._node("ReduceSum", self._node("Mul", self.state, self._mask), axis, keepdims=0)
        # The number of tokens does not matter: the vector is scaled.
        length = self._node("ReduceL2", total, axes=[1], keepdims=1)
        least = self._constant("least", np.float32(1e-12))
        self.nodes.append(
            helper.make_node("Div", [total, self._node("Max", length, least)], ["sentence"])
        )

    def _add_and_norm(self, name: str, change: str) -> None:
        changed = self._node("Add", self._dense(f"{name}.dense", change), self.state)
        self.state = self._norm(f"{name}.LayerNorm", changed)

    def _dense(self, name: str, given: str) -> str:
        weight = np.ascontiguousarray(self._weights[f"{name}.weight"].T)
        product = self._node("MatMul", given, self._constant(f"{name}.weight", weight))
        return self._node("Add", product, self._weight(f"{name}.bias"))

    def _norm(self, name: str, given: str) -> str:
        scale, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._node("LayerNormalization", given, scale, bias, axis=-1, epsilon=_EPSILON)

    def _gelu(self, given: str) -> str:
        root = self._constant("root", np.float32(math.sqrt(2.0)))
        share = self._node("Erf", self._node("Div", given, root))
        share = self._node("Add", share, self._constant("unit", np.float32(1.0)))
        half = self._constant("half", np.float32(0.5))
        return self._node("Mul", self._node("Mul", given, share), half)

    def _weight(self, name: str) -> str:
        return self._constant(name, self._weights[name])

    def _constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        made = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [*inputs], [made], **attributes))
        return made
