"""The ONNX graph of BERT, beside a plain implementation in numpy."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import erf, softmax
from tests.platform.understanding.tiny_model import HEADS, PLACES, WIDTH, WORDS, random_weights

from tactful.understanding.bert_graph import Weights, bert_to_onnx

onnxruntime = pytest.importorskip("onnxruntime")


def norm(weights: Weights, name: str, given: NDArray[Any]) -> NDArray[Any]:
    centred = given - given.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def sentence(weights: Weights, ids: list[int]) -> NDArray[Any]:
    """Return the vector of one sentence without padding, token by token and head by head."""

    def dense(name: str, given: NDArray[Any]) -> NDArray[Any]:
        return given @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    state = weights["embeddings.word_embeddings.weight"][ids].astype(np.float64)
    state = state + weights["embeddings.position_embeddings.weight"][: len(ids)]
    state = state + weights["embeddings.token_type_embeddings.weight"][0]
    state = norm(weights, "embeddings.LayerNorm", state)
    size = WIDTH // HEADS
    for number in range(2):
        layer = f"encoder.layer.{number}"
        query, key, value = (
            dense(f"{layer}.attention.self.{part}", state) for part in ("query", "key", "value")
        )
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = query[:, part] @ key[:, part].T / np.sqrt(size)
            heads.append(softmax(scores, axis=1) @ value[:, part])
        mixed = dense(f"{layer}.attention.output.dense", np.hstack(heads))
        state = norm(weights, f"{layer}.attention.output.LayerNorm", mixed + state)
        inner = dense(f"{layer}.intermediate.dense", state)
        inner = inner * 0.5 * (1.0 + erf(inner / np.sqrt(2.0)))
        state = norm(
            weights, f"{layer}.output.LayerNorm", dense(f"{layer}.output.dense", inner) + state
        )
    mean = state.mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


@pytest.mark.parametrize("seed", range(4))
def test_graph_computes_bert(seed: int) -> None:
    weights = random_weights(seed)
    session = onnxruntime.InferenceSession(
        bert_to_onnx(weights, HEADS), providers=["CPUExecutionProvider"]
    )
    draw = np.random.default_rng(seed)
    lengths = [1, 2, PLACES, 7]
    ids = np.zeros((len(lengths), PLACES), np.int64)
    mask = np.zeros_like(ids)
    sentences = [draw.integers(0, WORDS, length).tolist() for length in lengths]
    for row, one in enumerate(sentences):
        ids[row, : len(one)], mask[row, : len(one)] = one, 1
    made = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    for row, one in enumerate(sentences):
        assert made[row] == pytest.approx(sentence(weights, one), abs=2e-6)


def test_a_missing_tensor_is_named() -> None:
    weights = dict(random_weights())
    del weights["encoder.layer.1.output.dense.bias"]
    with pytest.raises(KeyError, match=r"layer\.1\.output\.dense\.bias"):
        bert_to_onnx(weights, HEADS)
