"""Reports of a read-out: HTML without scripts, and a notebook that runs."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from tests.platform.experiment_metrics.test_readout import TEXT, read, shop
from tests.platform.shop import write_log

from tactful.cli.main import main
from tactful.experiment_metrics.reports import html_report, notebook_report
from tactful.metadata.store import MetadataStore
from tactful.schemas.experiments.readouts import ReadOutMessage


@pytest.fixture
def found(sqlite: MetadataStore) -> ReadOutMessage:
    message = read(sqlite, shop(400, lift=0.3))
    return msgspec.structs.replace(message, notes=["<script>alert(1)</script>"])


def test_the_page_has_every_number_and_no_script(found: ReadOutMessage) -> None:
    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: set[str] = set()
            self.text = ""

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.tags.add(tag)

        def handle_data(self, data: str) -> None:
            self.text += data

    reader = Reader()
    reader.feed(html_report(found))
    assert "script" not in reader.tags and "svg" in reader.tags
    for effect in found.effects:
        assert f"{effect.difference:+.4g}" in reader.text and effect.words in reader.text
    assert "Segment 手机" in reader.text and "<script>" in reader.text


def test_a_read_out_without_effects_is_a_page(sqlite: MetadataStore) -> None:
    empty = read(sqlite, [])
    assert empty.reason in html_report(empty) and empty.reason in notebook_report(empty)


def test_the_notebook_runs_without_a_server(found: ReadOutMessage) -> None:
    pytest.importorskip("altair")
    notebook = json.loads(notebook_report(found))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(cell["source"], names)
    assert names["found"] == found


def test_the_command_writes_reports(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "metrics.yaml"
    data.mkdir()
    file.write_text(TEXT.replace("cuped: 1d", "start: 2023-11-01"), "utf-8")
    write_log(data / "log", shop(60)).close()
    environment = {
        "TACTFUL_STORAGE__DATA": str(data),
        "TACTFUL_CONSENT__DEFAULT": "assume",
        "TACTFUL_RECOMMEND__METRICS": str(file),
    }
    page, notebook = tmp_path / "a.html", tmp_path / "a.ipynb"
    arguments = ["experiment", "readout", "结账", "--html", str(page), "--notebook", str(notebook)]
    told = CliRunner().invoke(main, arguments, env=environment)
    assert told.exit_code == 0, told.output
    assert "结账" in page.read_text("utf-8")
    assert json.loads(notebook.read_text("utf-8"))["nbformat"] == 4


@pytest.mark.slow  # MLflow takes ten seconds to import
def test_a_read_out_is_recorded_in_mlflow(
    found: ReadOutMessage, empty_registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from tactful.models.record_readout import record_read_out

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{empty_registry}")
    run = mlflow.MlflowClient(f"sqlite:///{empty_registry}").get_run(record_read_out(found, "page"))
    effects = {it.metric: it for it in found.effects}
    assert run.data.metrics["buyers.difference"] == effects["buyers"].difference
    assert run.data.tags["experiment"] == "结账"
