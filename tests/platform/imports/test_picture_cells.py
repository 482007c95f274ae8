"""Cells that name pictures: files below the folder of the imported one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tactful.imports.picture_cells import picture_reader


def test_a_file_below_the_folder_becomes_a_data_url(tmp_path: Path) -> None:
    for name in ("red.png", "red.txt"):
        (tmp_path / name).write_bytes(b"red")
    read = picture_reader(tmp_path)
    assert read(" red.png ") == "data:image/png;base64,cmVk"
    assert read("https://shop.example/red.png") == "https://shop.example/red.png"
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "outside.png").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe.png")
    for name, problem in {
        "gone.png": "is no file",
        "loop/x.png": "cannot be read|is no file",
        "outside.png": "below the folder",
        "../red.png": "below the folder",
        "pipe.png": "is no file",
        "red.txt": "no name of a picture",
        "a" * 300 + ".png": "cannot be read|is no file",
    }.items():
        with pytest.raises(ValueError, match=problem):
            read(name)
