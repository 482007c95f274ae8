"""The demo makes its data directory anew, and removes nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tactful.demo.demo import DemoOptions, clear, run
from tactful.errors import TactfulError


def test_what_a_demo_left_is_removed(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    clear(directory)
    directory.mkdir()
    (directory / "tactful.toml").write_text("# Written by `tactful demo`.\n[storage]\n")
    (directory / "log").mkdir()
    clear(directory)
    assert not directory.exists()


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    clear(tmp_path)
    assert not tmp_path.exists()


@pytest.mark.parametrize("settings", [None, "", "[storage]\ndata = '.'\n"])
def test_files_of_others_are_not_removed(tmp_path: Path, settings: str | None) -> None:
    (tmp_path / "keys.db").write_text("precious")
    if settings is not None:
        (tmp_path / "tactful.toml").write_text(settings)
    with pytest.raises(TactfulError, match=r"holds something that no demo left there.*--directory"):
        run(DemoOptions(quick=True, directory=tmp_path, reports=tmp_path / "reports", port=0))
    assert (tmp_path / "keys.db").read_text() == "precious"


def test_a_file_in_its_place_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("precious")
    with pytest.raises(TactfulError, match=r"holds something.*--directory"):
        clear(tmp_path / "demo")
    assert (tmp_path / "demo").read_text() == "precious"
