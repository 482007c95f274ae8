"""Published vectors of the wire format are those of this version."""

import json

from tests.federated.wire_vectors import PUBLISHED, wire_vectors


def test_published_vectors_are_current() -> None:
    """After a wanted change: `python -m tests.federated.wire_vectors`."""
    assert json.loads(PUBLISHED.read_text("utf-8")) == wire_vectors()
