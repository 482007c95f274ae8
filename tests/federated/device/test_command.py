"""`tactful-device` ends with the reason on wrong arguments and files, and makes nothing of them."""

import json
from pathlib import Path

import pytest
from tests.federated.fleet_support import invited

from tactful_federated.device.command import main
from tactful_federated.device.home import DeviceHome


def ended(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str]:
    """How the command ends: its exit code, or its last message, and what it printed."""
    with pytest.raises(SystemExit) as exit:
        main([str(argument) for argument in arguments])
    return exit.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--server", "localhost:1"], "--authority is missing"),
        (["--poll", "0"], "--poll: 0 is not above 0"),
        (["--poll", "nan"], "--poll: nan is not above 0"),
        (["--memory", "10"], "--memory: 10 is less than 600"),
        (["--consent", "--withdraw"], "not allowed with"),
    ],
)
def test_wrong_arguments_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], named: str
) -> None:
    asked = [tmp_path / "home", "--invitation", tmp_path / "none", *wrong]
    code, printed = ended(capsys, *asked)
    assert code == 2 and named in printed
    assert not (tmp_path / "home").exists()


def test_files_are_checked_and_consent_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    invitation = invited(tmp_path, "clear", 3)
    file, home = tmp_path / "invitation.json", tmp_path / "home"
    history = tmp_path / "history.json"
    history.write_text(json.dumps([["牛奶", "bread"], [], ["milk"]]), "utf-8")
    asked = [home, "--invitation", file]
    for wrong in ("missing.json", "history.json"):
        code, _ = ended(capsys, home, "--invitation", tmp_path / wrong)
        assert "is not an invitation" in str(code)
    assert "did not consent" in str(ended(capsys, *asked, "--history", history)[0])
    main([str(part) for part in (*asked, "--consent", "--history", history)])
    assert f"have {home / 'request.json'} enrolled" in capsys.readouterr().out
    opened = DeviceHome(home, invitation)
    assert ["milk"] in [list(visit) for visit in opened.events.visits()]
    history.write_text("[[1]]")
    assert "must be a JSON list" in str(ended(capsys, *asked, "--history", history)[0])
    pinned = ["--server", "localhost:1", "--authority"]
    assert "tactful-device: " in str(ended(capsys, *asked, *pinned, history)[0])
    main([str(part) for part in (*asked, "--withdraw")])
    assert not opened.events.visits() and not opened.events.consent
    opened.close()
