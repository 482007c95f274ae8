"""The dashboard against the platform's own server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from tests.ui import sample
from tests.ui.conftest import PAGES, open_at
from tests.ui.reading import charts, words


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """Address of ``tactful serve`` on a free port, with the sample report to offer."""
    reports = folder / "reports"
    reports.mkdir()
    (reports / "demo.json").write_text(json.dumps(sample.report()), encoding="utf-8")
    command = [sys.executable, "-m", "tactful", "serve", "--json", "--port", "0", *options]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "server.log").read_text(errors="replace")
        yield str(json.loads(line)["url"])
    finally:
        process.terminate()
        process.wait(timeout=30)


def opened(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, AppTest]:
    monkeypatch.setenv("TACTFUL_URL", url)
    pages = {name: open_at(name) for name in PAGES}
    assert not [page.exception for page in pages.values() if page.exception]
    return pages


@pytest.mark.slow
def test_every_page_reads_the_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page reads the real server with an analyst's key."""
    made = subprocess.run(
        [sys.executable, "-m", "tactful", "keys", "create", "--scope", "analyst", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    key = json.loads(made.stdout)["key"]
    with serving(tmp_path) as url:
        monkeypatch.setenv("TACTFUL_API_KEY", "tactful_wrong")
        refused = opened(url, monkeypatch)
        monkeypatch.setenv("TACTFUL_API_KEY", key)
        let_in = opened(url, monkeypatch)
    assert all("TACTFUL_API_KEY" in words(page) for page in refused.values())
    assert not [page.error for page in let_in.values() if page.error]
    assert "0.412 [0.397, 0.427]" in words(let_in["demo"])
    assert len(charts(let_in["released"])) == 3
    assert "3.11.7" in words(let_in["demo"])
    assert not any(key in words(page) for page in let_in.values())
