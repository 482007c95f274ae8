"""Rounds of a long benchmark, a line of a file each, from which an interrupted run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.figures import commit


class KeptRound(msgspec.Struct, frozen=True):
    """Result of one round; a benchmark adds its own fields."""

    commit: str | None


R = TypeVar("R", bound=KeptRound)


def read_rounds(file: Path | None, kind: type[R]) -> list[R]:
    """Return the rounds of this commit in a file; none if it is None or not there."""
    if file is None or not file.exists():
        return []
    rounds = [msgspec.json.decode(line, type=kind) for line in file.read_bytes().splitlines()]
    return [one for one in rounds if one.commit == commit()]


def keep_round(file: Path | None, one: KeptRound) -> None:
    """Append a round to a file, if there is one."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as opened:
            opened.write(msgspec.json.encode(one) + b"\n")
