"""The model without torch: the same numbers; packages: signed, newer, working, or refused."""

import io
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_federated.device.model_package import ModelSlot, pack_model
from tactful_federated.errors import PackageError, SettingsError, VocabularyError, WeightsError
from tactful_federated.model.lstm_numpy import (
    IntentPredictor,
    fit_temperature,
    mean_curvature,
    mean_loss,
)
from tactful_federated.model.lstm_torch import IntentModel, to_torchscript
from tactful_federated.model.onnx import to_onnx
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.tokens import Vocabulary, windows
from tactful_federated.model.vectors import Vector, layer_shapes, layers

VOCABULARY = Vocabulary.from_catalogue(SAMPLE_CATALOGUE)
SIZE = VOCABULARY.size
MODEL = IntentModel(SIZE, seed=3)
MODEL.load_vector(MODEL.vector() * 3)  # far from uniform
HALF: Vector = (MODEL.vector() / 2).astype(np.float32)
PREDICTOR = IntentPredictor(MODEL.vector(), SIZE)
KEY = Ed25519PrivateKey.generate()
ASKED = windows(VOCABULARY.sequence(sample_history(1, baskets=60)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, SIZE - 1), max_size=300))
def test_numpy_predicts_what_torch_predicts(history: list[int]) -> None:
    ours, theirs = PREDICTOR.predict(history), MODEL.predict(history)
    assert np.abs(ours - theirs).max() < 2e-5
    assert ours.sum() == pytest.approx(1) and not ours[:3].any()


def test_likely_within_agrees_with_enumeration() -> None:
    history, wanted, steps = [1, 5], {4, 7}, 2
    exact = 0.0
    for path in product(range(3, SIZE), repeat=steps):
        if wanted & set(path):
            chance, read = 1.0, list(history)
            for token in path:
                chance *= PREDICTOR.predict(read)[token]
                read.append(token)
            exact += chance
    drawn = PREDICTOR.likely_within(history, [wanted], steps=steps, seed=1, continuations=5_000)
    assert drawn[1, 0] == pytest.approx(exact, abs=4 * 0.5 / np.sqrt(5_000))
    assert drawn[0, 0] == pytest.approx(PREDICTOR.predict(history)[[4, 7]].sum(), abs=1e-6)
    all_and_none = PREDICTOR.likely_within(history, [range(3, SIZE), []], steps=3, seed=1)
    assert all_and_none == pytest.approx(np.array([[1, 0]] * 3))


def test_a_visit_that_ends_is_followed_by_a_boundary() -> None:
    """With a boundary after each category, as where each is a visit of its own."""
    history, wanted = [1, 5, 1], 4
    exact = PREDICTOR.predict(history)[wanted]
    for token in range(3, SIZE):
        if token != wanted:
            chance = PREDICTOR.predict(history)[token]
            exact += chance * PREDICTOR.predict([*history, token, 1])[wanted]
    drawn = PREDICTOR.likely_within(
        history, [[wanted]], steps=2, seed=2, continuations=5_000, ends=1.0
    )
    assert drawn[1, 0] == pytest.approx(exact, abs=4 * 0.5 / np.sqrt(5_000))
    with pytest.raises(SettingsError):
        PREDICTOR.likely_within(history, [[4]], steps=2, seed=1, ends=1.5)


def test_temperature_undoes_overconfidence() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(size=(4_000, 6))
    likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers = (likely.cumsum(axis=1) < random.random((4_000, 1))).sum(axis=1).clip(0, 5)
    assert fit_temperature(logits * 2.5, answers) == pytest.approx(2.5, rel=0.1)
    flat = IntentPredictor(MODEL.vector(), SIZE, temperature=4.0).predict([5])
    sharp = PREDICTOR.predict([5])
    assert flat.max() < sharp.max() and flat.argmax() == sharp.argmax()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(WeightsError):
        IntentPredictor(MODEL.vector()[:-1], SIZE)
    with pytest.raises(SettingsError):
        IntentPredictor(MODEL.vector(), SIZE, temperature=0.0)
    with pytest.raises(VocabularyError):
        PREDICTOR.predict([SIZE])
    with pytest.raises(SettingsError):
        PREDICTOR.likely_within([1], [[4]], steps=0, seed=1)
    with pytest.raises(SettingsError):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))


def packed(version: int, weights: Vector | None = None, key: Ed25519PrivateKey = KEY) -> bytes:
    return pack_model(MODEL.vector() if weights is None else weights, VOCABULARY, version, key)


def slot_in(path: Path) -> ModelSlot:
    return ModelSlot(path, KEY.public_key(), VOCABULARY)


def test_a_signed_newer_model_is_used_and_the_one_before_kept(tmp_path: Path) -> None:
    slot = slot_in(tmp_path)
    assert slot.predictor() is None and slot.version == 0
    slot.install(packed(1))
    slot.install(packed(3, HALF))
    assert slot_in(tmp_path).version == 3
    slot.roll_back()
    found = slot.predictor()
    assert slot.version == 1 and found is not None
    assert np.array_equal(found.predict([5]), PREDICTOR.predict([5]))
    for version in (2, 3):  # not installed again
        again = slot_in(tmp_path)
        with pytest.raises(PackageError, match="rolled back"):
            again.install(packed(version, HALF))
        assert again.version == 1 and again.withdrawn == 3
    with pytest.raises(PackageError, match="no earlier model"):
        slot.roll_back()
    slot.install(packed(4))
    assert slot.version == 4
    slot.roll_back()
    assert (slot.version, slot.withdrawn) == (1, 4)


def flipped(place: int) -> bytes:
    bad = bytearray(packed(6))
    bad[place] ^= 1
    return bytes(bad)


def test_refused_models_leave_the_old_one_in_use(tmp_path: Path) -> None:
    slot = slot_in(tmp_path)
    slot.install(packed(5))

    def breaks(predictor: IntentPredictor) -> bool:
        raise ZeroDivisionError

    refused = [
        (packed(6, key=Ed25519PrivateKey.generate()), lambda p: True, "not signed"),
        (packed(5), lambda p: True, "not newer"),
        (packed(6, MODEL.vector() * np.float32(np.nan)), lambda p: True, "is not valid"),
        (packed(6, MODEL.vector()[:9]), lambda p: True, "is not valid"),
        (packed(6), lambda p: False, "is worse"),
        (packed(6), breaks, "failed on this device"),
        (b"", lambda p: True, "not signed"),
        *((flipped(place), lambda p: True, "not signed") for place in (0, 63, 64, 70, -1)),
    ]
    for data, accept, message in refused:
        with pytest.raises(PackageError, match=message):
            slot.install(data, accept)
        assert slot.version == 5
    other = Vocabulary(("only",))
    with pytest.raises(PackageError, match="another vocabulary"):
        ModelSlot(tmp_path / "other", KEY.public_key(), other).install(packed(9))
    with pytest.raises(PackageError, match="no earlier model"):
        slot.roll_back()


def test_damage_and_lost_files_admit_no_older_model(tmp_path: Path) -> None:
    """A damaged file gives way to the model before, and no model is installed that is older."""
    slot = slot_in(tmp_path)
    slot.install(packed(3))
    slot.install(packed(5, HALF))
    for name in ("current", "previous"):
        (tmp_path / name).write_bytes(b"half of it")
        again = slot_in(tmp_path)
        with pytest.raises(PackageError, match="not newer than 5"):
            again.install(packed(4))
        if name == "current":
            found = slot.predictor()
            assert found is not None and np.array_equal(found.predict([5]), PREDICTOR.predict([5]))
    assert again.version == 0 and again.predictor() is None
    again.install(packed(5, HALF))  # the very model that was lost
    assert again.version == 5


def test_another_signers_versions_begin_anew(tmp_path: Path) -> None:
    other = Ed25519PrivateKey.generate()
    slot = slot_in(tmp_path)
    slot.install(packed(1))
    slot.install(packed(9, HALF))
    slot.roll_back()
    trusted = ModelSlot(tmp_path, other.public_key(), VOCABULARY)
    assert trusted.version == trusted.withdrawn == trusted.reached == 0
    trusted.install(packed(2, key=other))
    assert trusted.version == 2
    with pytest.raises(PackageError, match="rolled back"):
        slot_in(tmp_path).install(packed(9, HALF))


SHAPE: dict[str, Any] = {"embedding": 4, "hidden": 5, "temperature": 0.7}


@pytest.mark.slow
def test_a_torchscript_program_says_what_the_numpy_runner_says() -> None:
    weights = IntentModel(9, embedding=4, hidden=5, seed=3).vector()
    program = torch.jit.load(io.BytesIO(to_torchscript(weights, 9, **SHAPE)))  # type: ignore[no-untyped-call]
    runner = IntentPredictor(weights, 9, **SHAPE)
    for history in ([1], [1, 4, 8, 1], [2, 3, 1, 7]):
        said = program(torch.tensor([history]))[0].numpy()
        assert said.shape == (9,) and np.abs(said - runner.predict(history)).max() < 1e-6
    with pytest.raises(WeightsError):
        to_torchscript(weights[1:], 9, embedding=4, hidden=5)


def test_an_onnx_graph_says_what_the_numpy_runner_says() -> None:
    reference = pytest.importorskip("onnx.reference", reason="needs the extra onnx")
    weights = IntentModel(9, embedding=4, hidden=5, seed=3).vector() * np.float32(3)
    graph = reference.ReferenceEvaluator(to_onnx(weights, 9, **SHAPE))
    runner = IntentPredictor(weights, 9, **SHAPE)
    for histories in ([[1, 4, 8, 1], [2, 3, 1, 7]], [[1]]):
        (answers,) = graph.run(None, {"tokens": np.array(histories)})
        for history, said in zip(histories, answers, strict=True):
            assert said.shape == (9,) and np.abs(said - runner.predict(history)).max() < 1e-6
    with pytest.raises(WeightsError):
        to_onnx(weights[1:], 9, embedding=4, hidden=5)
    with pytest.raises(SettingsError):
        to_onnx(weights, 9, embedding=4, hidden=5, temperature=0.0)


def test_onnx_runtime_says_what_numpy_says() -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from tactful_federated.model.lstm_onnx import OnnxPredictor

    plain = PREDICTOR.replaced(PREDICTOR.weights, temperature=1.5)
    fast = OnnxPredictor(plain)
    long = VOCABULARY.sequence(sample_history(1, baskets=200)).tolist()
    assert len(long) > 256, "more than is read"
    for history in ([], [1], long[:7], long):
        said = fast.predict(history)
        assert said.dtype == np.float64 and np.abs(said - plain.predict(history)).max() < 1e-6
    for outside in ([SIZE], [-1]):
        with pytest.raises(VocabularyError, match="outside"):
            fast.predict(outside)
    assert fast.loss(ASKED) == plain.loss(ASKED)
    assert type(fast.replaced(HALF)) is IntentPredictor
    with pytest.raises(WeightsError):
        OnnxPredictor(IntentPredictor(HALF[1:], SIZE))


def test_it_is_the_trace_of_the_hessian_where_that_is_known() -> None:
    """At weights of zero only the last bias matters: its softmax has a Hessian of p (1 - p)."""
    size = MODEL.size
    flat = IntentPredictor(np.zeros(size, dtype=np.float32), SIZE)
    count = len(SAMPLE_CATALOGUE)
    exact = count * (1 / count) * (1 - 1 / count) / size
    found = mean_curvature(flat, ASKED, noise=0.01, draws=40)
    # Noise in the other layers adds what is of fourth order in its width.
    assert found == pytest.approx(exact, rel=0.35)


@pytest.mark.slow
def test_a_plan_foresees_what_noise_then_costs() -> None:
    model = IntentPredictor(IntentModel(SIZE, seed=1).vector(), SIZE)
    curvature = mean_curvature(model, ASKED, noise=0.03, draws=30)
    foreseen = model.weights.size * curvature * 0.05**2 / 2
    random, losses = np.random.default_rng(9), []
    for _ in range(60):
        away = random.normal(0, 0.05, model.weights.size).astype(np.float32)
        for noised in (model.weights + away, model.weights - away):
            losses.append(mean_loss(*IntentPredictor(noised, SIZE).questions(ASKED)))
    cost = float(np.mean(losses)) - mean_loss(*model.questions(ASKED))
    assert cost == pytest.approx(foreseen, rel=0.35) and cost > 0


def test_what_cannot_be_measured_is_refused() -> None:
    shapes = layer_shapes(SIZE, embedding=32, hidden=32)
    weights = np.zeros(MODEL.size, dtype=np.float32)
    layers(weights, shapes)[-1][0] = 1.0
    model = IntentPredictor(weights, SIZE)
    nothing = windows(VOCABULARY.sequence([]))
    for asked, noise, draws in ((ASKED, 0.0, 1), (ASKED, 0.1, 0), (nothing, 0.1, 1)):
        with pytest.raises(SettingsError):
            mean_curvature(model, asked, noise=noise, draws=draws)
