"""Encoders of pictures: an ONNX model with a description of its input.

    packaged   91 dimensions; silhouettes of clothing and coarse colours, trained for tactful
    PATH       a directory of model.onnx and picture.json

The file `picture.json` is one object: `side`, the pixels of the square that the model takes, and
maybe `mean` and `std`, three numbers each by which red, green and blue between 0 and 1 are shifted
and divided. The graph has one input of shape (rows, 3, side, side) and returns one vector a row.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful.understanding.encoder import model_name, unit_rows
from tactful.understanding.pictures import decode_picture
from tactful_privacy.decoding import DECODE_ERRORS

PACKAGED = Path(__file__).parent / "packaged"
"""Directory of the model that comes with tactful."""

_BATCH = 32
_Colours = tuple[float, float, float]


class PictureEncoder(Protocol):
    """Model that makes vectors of pictures.

    Attributes:
        name: name of the model and a hash of its files: vectors of one name are comparable.
        dimensions: length of a vector.
    """

    name: str
    dimensions: int

    def encode(self, pictures: Sequence[bytes]) -> NDArray[np.float32]:
        """Return a vector of length 1 for each file of a picture, shape (pictures, dimensions).

        Raises:
            PictureError: if a file is none of a picture that `decode_picture` reads.
        """
        ...


class _Description(Struct, frozen=True, forbid_unknown_fields=True):
    side: Annotated[int, Meta(ge=8, le=1_024)]
    mean: _Colours = (0.0, 0.0, 0.0)
    std: _Colours = (1.0, 1.0, 1.0)


def open_picture_encoder(settings: Settings) -> PictureEncoder | None:
    """Open the encoder that `understanding.picture_model` names; None if it names none.

    Raises:
        ConfigError: if the model is missing or cannot be loaded.
    """
    model, threads = settings.understanding.picture_model, settings.understanding.threads
    if not model:
        return None
    return OnnxPictureEncoder(PACKAGED if model == "packaged" else Path(model), threads=threads)


class OnnxPictureEncoder:
    """Encoder of pictures in ONNX Runtime."""

    def __init__(self, directory: Path, *, threads: int = 1) -> None:
        """Load ``model.onnx`` and ``picture.json`` of a directory.

        Raises:
            ConfigError: if a file is missing, or is no model or description.
        """
        import onnxruntime

        importlib.import_module("PIL")  # without it every picture would count as damaged

        model, description = directory / "model.onnx", directory / "picture.json"
        self.name = model_name(directory, description)
        self._description = _read_description(description)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        onnxruntime.disable_telemetry_events()
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
            side = self._description.side
            self.dimensions = self._run(np.zeros((1, side, side, 3), np.uint8)).shape[1]
        except Exception as error:  # the library raises several types, Exception among them
            raise ConfigError(
                f"{model}: the model cannot be loaded, or takes no rows of shape (3, side, side) "
                f"with the side of {description.name}: {error}"
            ) from error

    def encode(self, pictures: Sequence[bytes]) -> NDArray[np.float32]:
        """Return a vector of length 1 for each file of a picture, shape (pictures, dimensions).

        Raises:
            PictureError: if a file is none of a picture that `decode_picture` reads.
        """
        side = self._description.side
        rows = np.zeros((len(pictures), self.dimensions), np.float32)
        for begin in range(0, len(pictures), _BATCH):
            part = pictures[begin : begin + _BATCH]
            pixels = np.stack([decode_picture(data, side) for data in part])
            rows[begin : begin + len(part)] = self._run(pixels)
        return unit_rows(rows)

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        mean, std = np.array([self._description.mean, self._description.std], np.float32)
        scaled = (pixels.astype(np.float32) / np.float32(255.0) - mean) / std
        given = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
        made = self._session.run(None, {self._session.get_inputs()[0].name: given})[0]
        return np.asarray(made, np.float32).reshape(len(pixels), -1)


def _read_description(file: Path) -> _Description:
    try:
        found = msgspec.json.decode(file.read_bytes(), type=_Description)
    except (ValueError, *DECODE_ERRORS) as error:
        raise ConfigError(
            f'{file}: {error}: write {{"side": 224, "mean": [0, 0, 0], "std": [1, 1, 1]}} with the '
            "numbers of the model"
        ) from error
    except OSError as error:
        raise ConfigError(f"{file}: the description cannot be read: {error}") from error
    if not (np.isfinite(found.mean).all() and np.isfinite(found.std).all() and all(found.std)):
        raise ConfigError(f"{file}: `mean` and `std` are finite numbers, and `std` is not 0")
    return found
