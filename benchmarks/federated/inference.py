"""Time of a prediction on a device, with numpy alone and with ONNX Runtime.

Times are of the processor: a prediction has one thread, so on an idle machine it lasts as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.figures import Figure
from tactful_federated.errors import MissingExtraError
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.tokens import FIRST_CATEGORY
from tactful_federated.model.vectors import parameter_count

FIGURES = [(name, "ms") for name in ("device_inference_ms", "device_inference_onnx_ms")]
FIGURES += [("device_onnx_start_ms", "ms")]

_CATEGORIES, _TOKENS, _BLOCK = 97, 100, 20
_Predict = Callable[[Sequence[int]], object]


def inference_time(quick: bool) -> list[Figure]:
    """Predict after 100 tokens, in blocks by turns: the middle block, between quartiles."""
    size = _CATEGORIES + FIRST_CATEGORY
    draw = np.random.default_rng(1)
    weights = draw.normal(0, 0.1, parameter_count(size)).astype(np.float32)
    history = draw.integers(FIRST_CATEGORY, size, _TOKENS).tolist()
    plain = IntentPredictor(weights, size)
    predictors: dict[str, _Predict] = {"device_inference_ms": plain.predict}
    absent, begun = "", time.perf_counter()
    try:
        from tactful_federated.model.lstm_onnx import OnnxPredictor

        begun = time.thread_time()
        predictors["device_inference_onnx_ms"] = OnnxPredictor(plain).predict
    except MissingExtraError as error:
        absent = str(error)
    started = time.thread_time() - begun
    times = _times(predictors, history, 20 if quick else 200)
    note = f"after {_TOKENS} tokens; {weights.size:,} parameters, {_CATEGORIES} categories"
    figures = [_figure(name, found, note) for name, found in times.items()]
    if absent:
        return figures + [Figure(name, None, "ms", note=absent) for name, _ in FIGURES[1:]]
    start = "to write and compile the model once"
    return [*figures, Figure("device_onnx_start_ms", started * 1e3, "ms", runs=1, note=start)]


def _times(
    predictors: dict[str, _Predict], history: Sequence[int], blocks: int
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in predictors}
    for _ in range(blocks):
        for name, predict in predictors.items():
            begun = time.thread_time()
            for _ in range(_BLOCK):
                predict(history)
            times[name].append((time.thread_time() - begun) / _BLOCK)
    return times


def _figure(name: str, times: Sequence[float], note: str) -> Figure:
    low, middle, high = (1e3 * float(q) for q in np.quantile(times, (0.25, 0.5, 0.75)))
    return Figure(name, middle, "ms", low, high, _BLOCK * len(times), note)
