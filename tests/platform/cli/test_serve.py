"""``tactful serve`` asks for another start where its log cannot be reached yet."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner

from tactful.cli.main import main
from tactful.errors import StorageError, TactfulError
from tactful_streaming.errors import LogError, LogUnreachableError


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (LogUnreachableError("no broker answers", retry_after=1.0), 75),
        (LogError("refused us"), 1),
        (None, 1),
    ],
)
def test_a_start_without_brokers_asks_for_another(
    failure: LogError | None, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was started while all brokers were away ended for good."""

    def fails(*_: Any, **__: Any) -> NoReturn:
        raise StorageError(f"cannot start: {failure}") from failure

    monkeypatch.setattr("tactful.workers.pool.run_server", fails)
    ran = CliRunner().invoke(main, ["serve", "--data", str(tmp_path / "data")])
    assert ran.exit_code == code
    assert f"tactful: cannot start: {failure}" in ran.stderr


def test_no_broker_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the log itself arrives, with its cause."""
    file = tmp_path / "tactful.toml"
    file.write_text('[log]\nkind = "kafka"\nbrokers = "127.0.0.1:1"\ntopic = "t"\n')
    monkeypatch.setattr("tactful_streaming.kafka.client._FIRST_ANSWER_S", 0.1)
    monkeypatch.setattr(
        "tactful_streaming.kafka.topics.ensure_topic.__kwdefaults__",
        {**_defaults(), "timeout_s": 1.0},
    )
    arguments = ["serve", "--dev", "--port", "0", "--data", str(tmp_path / "data")]
    ran = CliRunner().invoke(main, [*arguments, "--config", str(file)])
    assert ran.exit_code == 75, ran.output
    assert "no broker answers" in ran.stderr
    assert not isinstance(ran.exception, TactfulError)


@pytest.mark.slow
def test_only_the_first_start_compiles_and_says_what(tmp_path: Path) -> None:
    def started() -> list[str]:
        command = [sys.executable, "-m", "tactful", "serve", "--dev", "--port", "0", "--json"]
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["dev"]
        process.terminate()
        _, said = process.communicate(timeout=60)
        return [line for line in said.splitlines() if "compiled" in line]

    (line,) = started()
    folder = re.escape(str(tmp_path / "cache" / "tactful"))
    kernels = "count_panes, add_panes, gather_cached"
    words = rf"compiled {kernels} for this processor in \d+\.\d s, once: .*{folder}$"
    assert re.search(words, line), line
    assert started() == []


def _defaults() -> dict[str, Any]:
    from tactful_streaming.kafka.topics import ensure_topic

    return dict(ensure_topic.__kwdefaults__ or {})
