"""Memory of the machine, within the limits of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from tactful.config.engine import EngineSettings
from tactful.pipeline.backends import memory_limit
from tactful.util.machine_memory import machine_memory, own_memory

MIB = 1 << 20


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {"memory.max": "max\n"}, None),
        ("0::/", {"memory.max": f"{512 * MIB}\n"}, 512),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": f"{300 * MIB}"}, 300),
        ("4:memory:/docker/x", {"memory/memory.limit_in_bytes": f"{200 * MIB}"}, 200),
        ("4:memory:/j", {"memory/j/memory.limit_in_bytes": f"{100 * MIB}"}, 100),
        ("", {}, None),
    ],
)
def test_the_smallest_limit_counts(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int | None
) -> None:
    """A container's limit, in both versions of control groups, and that of a group above."""
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    whole = machine_memory(tmp_path / "none", tmp_path / "none")
    found = machine_memory(tmp_path / "fs", tmp_path)
    assert found == (whole if expected is None else min(expected * MIB, whole))


def test_a_quarter_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 2,048 MiB; a number is taken as it is, and 0 is no limit."""
    for machine, expected in ((4_096, 1_024), (65_536, 2_048)):
        monkeypatch.setattr(
            "tactful.pipeline.backends.machine_memory", lambda machine=machine: machine * MIB
        )
        assert memory_limit(EngineSettings()) == expected * MIB
    assert memory_limit(EngineSettings(memory_mb=100)) == 100 * MIB
    assert memory_limit(EngineSettings(memory_mb=0)) is None


def test_own_memory_grows_with_what_is_taken(tmp_path: Path) -> None:
    """Where the system does not say it, it is 0."""
    before = own_memory()
    taken = bytearray(b"x") * (64 * MIB)
    assert 60 * MIB < own_memory() - before < 80 * MIB
    assert len(taken) == 64 * MIB
    assert own_memory(tmp_path) == 0
