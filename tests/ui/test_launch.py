import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.ui import sample
from tests.ui.conftest import ROOT
from tests.ui.reading import words
from tests.ui.server import FakePlatform

import tactful_ui
from tactful_ui import ENTRY

UI = ROOT / "ui"
CONFIG = Path(".streamlit") / "config.toml"


@pytest.mark.slow
@pytest.mark.parametrize("entry", [UI / "app.py", ENTRY], ids=["checkout", "package"])
def test_entry_opens_the_overview(
    entry: Path, fake: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACTFUL_URL", fake.url)
    fake.publish(demo=sample.report())
    page = AppTest.from_file(entry, default_timeout=30).run()
    assert not page.exception
    assert "Overview" in [title.value for title in page.title]
    assert fake.url in words(page)


def test_key_from_streamlit_secrets(fake: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TACTFUL_API_KEY", raising=False)
    monkeypatch.delenv("TACTFUL_URL", raising=False)
    fake.key = "sesame"
    fake.publish(demo=sample.report())
    page = AppTest.from_file(ENTRY, default_timeout=30)
    page.secrets = {"TACTFUL_URL": fake.url, "TACTFUL_API_KEY": "sesame"}
    page.run()
    assert not page.exception and not page.error
    assert "The server is ready" in words(page)
    assert "sesame" not in words(page)


def test_public_names_exist_and_the_entry_lies_in_the_package() -> None:
    assert tactful_ui.__all__ == sorted(tactful_ui.__all__)
    assert all(hasattr(tactful_ui, name) for name in tactful_ui.__all__)
    assert ENTRY.is_file() and ENTRY.parent == Path(str(tactful_ui.__file__)).parent


@pytest.mark.slow
def test_no_module_hides_another_one() -> None:
    # `streamlit run` puts the folder of its file first on sys.path: `ui/` or `ui/tactful_ui/`.
    installed = {
        name
        for name, owners in importlib.metadata.packages_distributions().items()
        if owners != ["tactful"]
    }
    ours = {path.stem for folder in (UI, ENTRY.parent) for path in folder.glob("*.py")}
    ours |= {path.parent.name for path in ENTRY.parent.glob("*/__init__.py")}
    assert not (ours - {"__init__", "__main__"}) & (installed | sys.stdlib_module_names)


def test_both_configurations_are_one_and_private() -> None:
    text = (UI / CONFIG).read_text(encoding="utf-8")
    assert text == (ENTRY.parent / CONFIG).read_text(encoding="utf-8")
    settings: dict[str, Any] = tomllib.loads(text)
    assert settings["browser"]["gatherUsageStats"] is False
    assert settings["server"] == {"address": "127.0.0.1", "showEmailPrompt": False}
    assert settings["client"]["showErrorDetails"] == "none"


def test_streamlit_reads_the_configuration_beside_the_entry(tmp_path: Path) -> None:
    """Finding the entry does not import Streamlit, which then reads its configuration."""
    code = (
        "import sys; from tactful_ui import ENTRY; print('streamlit' in sys.modules); "
        "from streamlit import config; from streamlit.web import bootstrap; "
        "config._main_script_path = str(ENTRY); config.get_config_options(force_reparse=True); "
        "print(config.get_option('browser.gatherUsageStats'), "
        "config.get_option('server.showEmailPrompt'))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["False"] * 3


def _entry(fake: FakePlatform, monkeypatch: pytest.MonkeyPatch, key: str | None) -> AppTest:
    monkeypatch.setenv("TACTFUL_URL", fake.url)
    if key is None:
        monkeypatch.delenv("TACTFUL_API_KEY", raising=False)
    else:
        monkeypatch.setenv("TACTFUL_API_KEY", key)
    return AppTest.from_file(ENTRY, default_timeout=30).run()


def test_a_reader_signs_in_and_out(fake: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.key = "sesame"
    page = _entry(fake, monkeypatch, None)
    assert "does not accept the key" in words(page)
    page.text_input[0].set_value("wrong")
    page.button[0].click().run()
    assert "does not accept the key" in words(page)
    fake.sign_in_as("admin")
    page.text_input[0].set_value(" sesame ")
    page.button[0].click().run()
    assert "The server is ready" in words(page) and "Signed in as key 0f3a9c21" in words(page)
    assert "sesame" not in words(page) and not page.query_params
    next(button for button in page.button if button.label == "Sign out").click().run()
    assert "does not accept the key" in words(page)


@pytest.mark.slow
def test_a_shared_key_must_not_do_more_than_read(
    fake: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.key = "sesame"
    fake.sign_in_as("analyst", "admin")
    page = _entry(fake, monkeypatch, "sesame")
    assert "may do more than read" in words(page) and "admin" in words(page)
    assert "The server is ready" not in words(page)
    fake.sign_in_as("analyst", "monitor")
    page = _entry(fake, monkeypatch, "sesame")
    assert "The server is ready" in words(page)
    assert not [button for button in page.button if button.label == "Sign out"]


@pytest.mark.slow
def test_the_pages_speak_chinese(fake: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _entry(fake, monkeypatch, None)
    page.selectbox(key="chosen_language").set_value("zh").run()
    assert "概览" in [title.value for title in page.title] and "服务器已就绪" in words(page)
