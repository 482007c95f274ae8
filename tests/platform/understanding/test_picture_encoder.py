"""Encoders of pictures: by files of a user, and the packaged one."""

import io
from pathlib import Path

import numpy as np
import pytest
from tests.platform.understanding.tiny_picture_model import plain_picture, write_picture_model

from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.config.understanding import UnderstandingSettings
from tactful.errors import ConfigError, PictureError
from tactful.understanding.picture_encoder import (
    PACKAGED,
    OnnxPictureEncoder,
    open_picture_encoder,
)

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("PIL")


def test_a_model_of_a_user_is_given_scaled_colours(tmp_path: Path) -> None:
    model = write_picture_model(tmp_path / "mine", mean=[0.0, 0.5, 0.5], std=[1.0, 0.5, 2.0])
    chosen = UnderstandingSettings(picture_model=str(model))
    storage = StorageSettings(data=tmp_path)
    encoder = open_picture_encoder(Settings(storage=storage, understanding=chosen))
    assert encoder is not None and encoder.dimensions == 3 and encoder.name.startswith("mine-")
    pictures = [plain_picture((255, 0, 255)), plain_picture((0, 255, 51), 40)] * 40
    rows = encoder.encode(pictures)
    assert rows.shape == (80, 3) and rows.dtype == np.float32
    wanted = np.array([[1.0, -1.0, 0.25], [0.0, 1.0, -0.15]])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert rows == pytest.approx(np.tile(wanted, (40, 1)), abs=1e-4)
    assert encoder.encode([]).shape == (0, 3)
    with pytest.raises(PictureError, match="damaged"):
        encoder.encode([pictures[0], b"nothing"])


def test_no_model_is_none() -> None:
    assert open_picture_encoder(Settings()) is None


def test_the_name_changes_with_the_files(tmp_path: Path) -> None:
    names = {
        OnnxPictureEncoder(write_picture_model(tmp_path / "m", side)).name for side in (8, 16, 8)
    }
    assert len(names) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "picture.json"),
        ('{"side": 0}', "side"),
        ('{"side": 16, "std": [1, 0, 1]}', "not 0"),
        ('{"side": 16, "mean": [1]}', "mean"),
        ('{"side": 16, "crop": 3}', "crop"),
        ('{"side": 8}', "model.onnx"),
    ],
)
def test_a_wrong_description_is_named(tmp_path: Path, text: str, message: str) -> None:
    model = write_picture_model(tmp_path / "mine")
    (model / "picture.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        OnnxPictureEncoder(model)


@pytest.mark.parametrize("file", ["model.onnx", "picture.json"])
def test_an_absent_or_damaged_file_is_named(tmp_path: Path, file: str) -> None:
    model = write_picture_model(tmp_path / "mine")
    (model / file).write_bytes(b"{}")
    with pytest.raises(ConfigError, match=file):
        OnnxPictureEncoder(model)
    (model / file).unlink()
    with pytest.raises(ConfigError, match=file):
        OnnxPictureEncoder(model)


def drawn(shape: str, colour: tuple[int, int, int], ground: tuple[int, int, int]) -> bytes:
    """Draw a pair of trousers or a boot."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (112, 112), ground)
    pen = ImageDraw.Draw(image)
    if shape == "trousers":
        pen.polygon(
            [(36, 8), (76, 8), (84, 104), (62, 104), (56, 36), (50, 104), (28, 104)], colour
        )
    else:
        pen.polygon([(48, 12), (84, 12), (88, 92), (12, 92), (16, 72), (48, 60)], colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_the_packaged_model_reads_shape_and_colour() -> None:
    assert (PACKAGED / "model.onnx").stat().st_size < 500_000
    encoder = OnnxPictureEncoder(PACKAGED)
    assert encoder.dimensions == 91
    white, black, red, blue = (255,) * 3, (0,) * 3, (200, 20, 20), (20, 20, 200)
    boot, on_black, other, trousers = encoder.encode(
        [
            drawn("boot", red, white),
            drawn("boot", red, black),
            drawn("boot", blue, white),
            drawn("trousers", red, white),
        ]
    )
    assert boot @ on_black > 0.95, "the background does not count"
    assert boot @ on_black - 0.05 > boot @ other > boot @ trousers
    assert np.isfinite(encoder.encode([plain_picture(white), plain_picture(black)])).all()
