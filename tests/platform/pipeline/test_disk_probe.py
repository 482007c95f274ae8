"""Trying the disk: readiness names the reason while events are refused."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tactful.pipeline.backends import DiskProbe
from tactful_streaming.errors import LogError, LogWriteError
from tactful_streaming.log.embedded_log import EmbeddedLog


def test_the_disk_is_tried_once_a_second() -> None:
    now, errors, tries = 0.0, [LogWriteError(errno.ENOSPC, "full"), LogError("closed"), None], 0

    def probe() -> None:
        nonlocal tries
        error, tries = errors[tries], tries + 1
        if error is not None:
            raise error

    disk = DiskProbe(probe, clock=lambda: now)
    for second, reason in enumerate(("No space left on device", "restart the server", None)):
        now = float(second)
        for _ in range(3):
            problem = disk.problem()
            assert problem is None if reason is None else reason in str(problem)
        assert tries == second + 1


def test_a_probe_leaves_the_log_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedLog(tmp_path) as log:
        log.append([b"one"])
        before = (tmp_path / f"{0:020}.log").read_bytes()
        log.probe()
        assert (tmp_path / f"{0:020}.log").read_bytes() == before

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.pwrite", full)
            with pytest.raises(LogWriteError):
                log.probe()
        log.probe()
        assert log.append([b"two"]) == 2
    with EmbeddedLog(tmp_path) as log:
        assert log.read(0, 9) == [(0, b"one"), (1, b"two")]
