"""The jar that runs scripts on Flink: compiled in a checkout, packed in a released wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tactful_streaming.flink.rest_client import build_runner

PACKED_JAR: Final = Path(__file__).with_name("tactful-flink.jar")
"""The jar of a released wheel, see `scripts/release`; a checkout has none."""


def find_runner(flink_home: Path, *, packed: Path = PACKED_JAR) -> Path:
    """Return the packed jar, or else compile the sources of the checkout.

    Args:
        flink_home: directory of Flink, for the compiler.
        packed: place of the packed jar.

    Raises:
        FlinkError: if there is neither, or it does not compile.
    """
    return packed if packed.is_file() else build_runner(flink_home)
