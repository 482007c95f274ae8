"""The intent model in ONNX Runtime: fast prediction on a device, with the extra `onnx`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import extra
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.onnx import to_onnx
from tactful_federated.model.vectors import Vector

with extra("onnx"):
    import onnxruntime

onnxruntime.disable_telemetry_events()  # histories and their times stay on the device


class OnnxPredictor(IntentPredictor):
    """An `IntentPredictor` whose `predict` runs in ONNX Runtime, in one thread.

    Probabilities differ by less than 1e-6. Creating it takes as long as some ten predictions with
    numpy, so it is for apps that predict more often than the model changes. All other methods, and
    predictors of `replaced`, use numpy.

    Args:
        weights: Flat float32, in the order of `IntentModel.vector`.
        vocabulary_size: Number of tokens, including reserved ones.
        embedding: Width of a token's vector.
        hidden: Width of the LSTM state.
        temperature: Divisor of the logits, above 0; see `fit_temperature`.
    """

    def __init__(
        self,
        weights: Vector,
        vocabulary_size: int,
        *,
        embedding: int = 32,
        hidden: int = 32,
        temperature: float = 1.0,
    ) -> None:
        """Compile the model.

        Raises:
            WeightsError: The vector does not fit.
            SettingsError: The temperature is not above 0.
        """
        super().__init__(
            weights, vocabulary_size, embedding=embedding, hidden=hidden, temperature=temperature
        )
        graph = to_onnx(
            weights, vocabulary_size, embedding=embedding, hidden=hidden, temperature=temperature
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )

    @classmethod
    def of(cls, predictor: IntentPredictor) -> OnnxPredictor:
        """Return the same model in ONNX Runtime, for example of `ModelSlot.predictor`."""
        return cls(
            predictor.weights,
            predictor.vocabulary_size,
            embedding=predictor.embedding,
            hidden=predictor.hidden,
            temperature=predictor.temperature,
        )

    def predict(self, history: Sequence[int]) -> NDArray[np.float64]:
        """Return the probability of each token to come next.

        Raises:
            VocabularyError: A token lies outside the vocabulary.
        """
        tokens = np.array([self._latest(history)], dtype=np.int64)
        likely: NDArray[np.float32] = self._session.run(None, {"tokens": tokens})[0][0]
        return likely.astype(np.float64)
