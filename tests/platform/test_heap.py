"""Large pieces of memory go back to the system, though smaller ones around them stay."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_MB = 1 << 20

# The first piece that is given back raises the size from which glibc asks the system, if it may.
_PROGRAM = """
import sys
from pathlib import Path
from tactful.heap import return_large_pieces

def dirty():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) * 1024

if sys.argv[1] == "returned":
    return_large_pieces()
del (first := [b"x" * (4 << 20)])[:]
before = dirty()
pieces = [(b"x" * ((3 << 20) + n), b"x" * ((64 << 10) + n)) for n in range(20)]
kept = [small for _, small in pieces]
del pieces
print(dirty() - before)
"""


def _left(told: str, **environment: str) -> int:
    """Bytes that a process keeps that took 60 MB in pieces, with others between them."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, told],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names,
    reason="it is about glibc",
)
def test_large_pieces_are_returned_unless_the_environment_says_otherwise() -> None:
    assert _left("as it is") > 40 * _MB, "or there is nothing to be done"
    assert _left("returned") < 5 * _MB
    wanted = {"MALLOC_MMAP_THRESHOLD_": str(32 * _MB)}
    assert _left("returned", **wanted) > 40 * _MB
