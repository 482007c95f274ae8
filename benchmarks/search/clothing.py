"""Pictures of clothing: the test part of Fashion-MNIST, tinted and enlarged where need be."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.shared import shared_data

CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
"""Classes of the data, by their numbers."""

UNKNOWN = (3, 7, 8)
"""Classes that the training of the packaged encoder leaves out: dress, sneaker and bag."""

COLOURS = (
    *((220, 40, 40), (40, 160, 60), (40, 70, 200), (230, 200, 40)),
    *((120, 50, 140), (240, 130, 30), (60, 60, 60), (240, 160, 190)),
)
"""Colours of tinted pictures."""

_INSIDE = 0.05  # of the brightness: darker pixels are background


@cache
def clothing() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return 300 pictures of each class, shape (3000, 28, 28), and their classes.

    Raises:
        OSError: if the data are not there.
    """
    with np.load(shared_data() / "fashion_mnist" / "t10k_300_per_class.npz") as data:
        return data["images"], data["labels"].astype(np.int64)


def tinted(images: NDArray[np.uint8], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give each picture a colour, on white; shape (pictures, 28, 28, 3)."""
    bright = images[..., None] / 255.0
    made = colours[:, None, None, :] * (0.35 + 0.65 * bright)
    return np.where(bright > _INSIDE, made, 255.0).astype(np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def shop_photograph(number: int) -> bytes:
    """Return a picture as shops have them: a tinted JPEG file of 800 × 800 pixels.

    Raises:
        OSError: if the data are not there.
    """
    from PIL import Image

    images, _ = clothing()
    colour = np.array([COLOURS[number % len(COLOURS)]], np.uint8)
    small = Image.fromarray(tinted(images[number * 7 % len(images)][None], colour)[0])
    large = np.asarray(small.resize((800, 800), Image.Resampling.BICUBIC), np.int16)
    grain = np.random.default_rng(number).integers(-6, 7, large.shape)  # as of a camera
    file = io.BytesIO()
    Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()
