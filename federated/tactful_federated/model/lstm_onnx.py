"""The intent model in ONNX Runtime: fast prediction on a device, with the extra `onnx`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import extra
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.onnx import to_onnx

with extra("onnx"):
    import onnxruntime

onnxruntime.disable_telemetry_events()  # histories and their times stay on the device


class OnnxPredictor(IntentPredictor):
    """An `IntentPredictor` whose `predict` runs in ONNX Runtime, in one thread.

    Probabilities differ by less than 1e-6. Creating it takes as long as some ten predictions with
    numpy, so it is for apps that predict more often than the model changes. All other methods, and
    predictors of `replaced`, use numpy.

    Args:
        predictor: Same model in numpy, for example of `ModelSlot.predictor`.
    """

    def __init__(self, predictor: IntentPredictor) -> None:
        """Compile the model."""
        weights, size = predictor.weights, predictor.vocabulary_size
        widths = {"embedding": predictor.embedding, "hidden": predictor.hidden}
        super().__init__(weights, size, **widths, temperature=predictor.temperature)
        graph = to_onnx(weights, size, **widths, temperature=predictor.temperature)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )

    def predict(self, history: Sequence[int]) -> NDArray[np.float64]:
        """Return the probability of each token to come next.

        Raises:
            VocabularyError: A token lies outside the vocabulary.
        """
        tokens = np.array([self._latest(history)], dtype=np.int64)
        likely: NDArray[np.float32] = self._session.run(None, {"tokens": tokens})[0][0]
        return likely.astype(np.float64)
