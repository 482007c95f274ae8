"""Published vectors of the wire format are those of this version."""

import json

import pytest
from tests.federated.wire_vectors import PUBLISHED, wire_vectors

ROUNDED = ("probabilities", "gradient", "update")


def test_published_vectors_are_current() -> None:
    """After a wanted change: `python -m tests.federated.wire_vectors`."""
    published, current = json.loads(PUBLISHED.read_text("utf-8")), wire_vectors()
    for name in ROUNDED:  # by rounding, other processors differ in the last places
        left, right = (vectors["model"].pop(name) for vectors in (published, current))
        for found, expected in zip(left, right, strict=True):
            assert found == pytest.approx(expected, abs=2e-6)
    assert published == current
