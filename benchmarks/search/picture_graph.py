"""ONNX graph of the packaged encoder of pictures, from the weights of its network.

    pixels ─┬─ contrast to the border ─┬─ network: 64 numbers of length 1 ─────────┬─ 91 numbers
            └──────────────────────────┴─ histogram of 27 colours, by contrast ────┘

The contrast is the distance of a pixel from the mean of the border, so dark things on white look
as bright ones on black, which the network was trained on. Silhouettes have no colour, so the
network cannot read any: three levels each of red, green and blue are counted beside it, weighted by
contrast, so that the background does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 28
"""Pixels of a side of the square that the graph takes."""

COLOUR = 0.5
"""Length of the colours' part beside the network's, which is 1."""

Weights = dict[str, NDArray[np.float32]]
"""Weights of `train_pictures.Network` by their names there."""

_LEVELS = 3
_FAINTEST = 0.05  # a picture of less contrast is not brightened further


class _Graph:
    """Nodes and constants, added one by one."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Any, kind: Any = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def add(self, kind: str, *inputs: str, **options: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [*inputs], [name], name=name, **options))
        return name


def graph_of(weights: Weights, strides: Sequence[int], colour: float = COLOUR) -> bytes:
    """Return the graph as a file.

    Args:
        weights: of the network.
        strides: of its convolutions.
        colour: length of the part of colours.
    """
    graph = _Graph()
    contrast = _contrast(graph)
    shape = _network(graph, contrast, weights, strides)
    colours = graph.add("Mul", _colours(graph, contrast), graph.constant("colour", [colour]))
    joined = graph.add("Concat", shape, colours, axis=1)
    graph.nodes.append(helper.make_node("Identity", [joined], ["vectors"], name="vectors"))
    size = len(weights["last.bias"]) + _LEVELS**3
    floats = TensorProto.FLOAT
    made = helper.make_graph(
        graph.nodes,
        "pictures",
        [helper.make_tensor_value_info("pixels", floats, ["rows", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("vectors", floats, ["rows", size])],
        graph.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _contrast(graph: _Graph) -> str:
    """Add the contrast of each pixel to the border, between 0 and 1, shape (rows, 1, …)."""
    border = np.ones((SIDE, SIDE), np.float32)
    border[1:-1, 1:-1] = 0.0
    mask = graph.constant("border", border[None, None] / border.sum())
    axes = graph.constant("both_sides", [2, 3], np.int64)
    ground = graph.add("ReduceSum", graph.add("Mul", "pixels", mask), axes, keepdims=1)
    away = graph.add("Abs", graph.add("Sub", "pixels", ground))
    largest = graph.add("ReduceMax", away, axes=[1], keepdims=1)
    brightest = graph.add("ReduceMax", largest, axes=[2, 3], keepdims=1)
    faintest = graph.constant("faintest", [_FAINTEST])
    return graph.add("Div", largest, graph.add("Max", brightest, faintest))


def _network(graph: _Graph, contrast: str, weights: Weights, strides: Sequence[int]) -> str:
    values = contrast
    for layer, stride in enumerate(strides):
        names = [f"convolutions.{layer}.{part}" for part in ("weight", "bias")]
        inputs = [graph.constant(name, weights[name]) for name in names]
        margin = weights[names[0]].shape[-1] // 2
        values = graph.add("Conv", values, *inputs, strides=[stride, stride], pads=[margin] * 4)
        values = graph.add("Relu", values)
    values = graph.add("MaxPool", values, kernel_shape=[2, 2], strides=[2, 2])
    values = graph.add("Flatten", values)
    inputs = [graph.constant(name, weights[name]) for name in ("last.weight", "last.bias")]
    return _unit(graph, graph.add("Gemm", values, *inputs, transB=1))


def _colours(graph: _Graph, contrast: str) -> str:
    """Add the histogram: each pixel counts for the levels that it lies between."""
    levels = np.linspace(0.0, 1.0, _LEVELS).reshape(1, 1, _LEVELS, 1)
    flat = graph.add("Reshape", "pixels", graph.constant("flat", [0, 3, 1, -1], np.int64))
    away = graph.add("Abs", graph.add("Sub", flat, graph.constant("levels", levels)))
    scaled = graph.add("Mul", away, graph.constant("steps", [_LEVELS - 1.0]))
    shares = graph.add("Relu", graph.add("Sub", graph.constant("one", [1.0]), scaled))
    channels = graph.constant("channels", [1, 1, 1], np.int64)
    outputs = [f"channel_{number}" for number in range(3)]
    graph.nodes.append(
        helper.make_node("Split", [shares, channels], outputs, name="channel", axis=1)
    )
    placed = []
    for number, name in enumerate(outputs):  # each colour's levels on an axis of its own
        shape = [0, *(_LEVELS if axis == number else 1 for axis in range(3)), -1]
        placed.append(graph.add("Reshape", name, graph.constant(f"axes_{number}", shape, np.int64)))
    joint = graph.add("Mul", graph.add("Mul", placed[0], placed[1]), placed[2])
    rows = graph.add("Reshape", joint, graph.constant("rows", [0, _LEVELS**3, -1], np.int64))
    weight = graph.add("Reshape", contrast, graph.constant("weight", [0, 1, -1], np.int64))
    last = graph.constant("last_axis", [2], np.int64)
    counts = graph.add("ReduceSum", graph.add("Mul", rows, weight), last, keepdims=0)
    return _unit(graph, graph.add("Sqrt", counts))


def _unit(graph: _Graph, values: str) -> str:
    """Add the division of rows by their lengths."""
    length = graph.add("ReduceL2", values, axes=[1], keepdims=1)
    return graph.add("Div", values, graph.add("Max", length, _tiny(graph)))


def _tiny(graph: _Graph) -> str:
    return graph.constant(f"tiny_{len(graph.nodes)}", [1e-9])
