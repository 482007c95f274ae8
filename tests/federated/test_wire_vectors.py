"""Published vectors of the wire format are those of this version."""

import json

import pytest
from tests.federated.wire_vectors import PUBLISHED, wire_vectors

ROUNDED = {
    "model": ("probabilities", "gradient", "update"),
    "intent": ("about", "loss", "head", "temperature"),
    "triggers": ("foreseen",),
}

LOOSE = {"about": 2e-3, "temperature": 1e-4, "foreseen": 1e-2}
"""A draw at the border of two categories falls to either; the minimum of a loss is flat."""


def test_published_vectors_are_current() -> None:
    """After a wanted change: `python -m tests.federated.wire_vectors`."""
    published = json.loads(PUBLISHED.read_text("utf-8"))
    current = json.loads(json.dumps(wire_vectors()))
    for part, names in ROUNDED.items():  # by rounding, processors differ in the last places
        for name in names:
            left, right = (_numbers(vectors[part].pop(name)) for vectors in (published, current))
            assert left == pytest.approx(right, abs=LOOSE.get(name, 2e-6))
    assert published == current


def _numbers(value: object) -> list[float]:
    """Return all numbers in a part of the vectors, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for each in value for number in _numbers(each)]
    return [float(value)] if isinstance(value, int | float) else []
