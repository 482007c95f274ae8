"""``tactful sources``: mappings are checked and tried without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tactful.cli.main import main
from tactful.config.settings import PACKAGED_MAPPING

ORDER = {
    "type": "track",
    "event": "Order Completed",
    "userId": "ada",
    "messageId": "m-1",
    "timestamp": "2026-03-01T12:00:00Z",
    "properties": {"products": [{"product_id": "tea", "price": "3.5"}]},
}
IDENTIFY = {"type": "identify", "userId": "ada", "traits": {"plan": "gold", "email": "a@b.c"}}
PLAIN = '{"event": "click", "user": "u", "item": "A", "ts": 1630000000}'


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["sources", *map(str, words)])


def attempt(tmp_path: Path, text: str, *options: str) -> Result:
    file = tmp_path / "messages.json"
    file.write_text(text)
    return run("try", PACKAGED_MAPPING, file, *options)


def test_a_mapping_is_checked(tmp_path: Path) -> None:
    done = run("check", PACKAGED_MAPPING)
    assert (done.exit_code, len(done.output.splitlines())) == (0, 4)
    file = tmp_path / "own.yaml"
    file.write_text("plain:\n  user_id: user\n  rules:\n    - {name: a, send: vew}\n")
    wrong = run("check", file)
    assert wrong.exit_code == 2
    assert f"{file}:4: rules: send: 'vew' is not one of" in wrong.output
    file.write_text("plain:\n  user_id: user\n  rules:\n    - {name: a, send: view}\n")
    assert json.loads(run("check", file, "--json").output) == {"plain": 1}
    assert "ga4          no rules" in run("check", file).output


def test_a_message_is_tried(tmp_path: Path) -> None:
    done = attempt(tmp_path, json.dumps([ORDER, IDENTIFY, {"type": "group"}]))
    assert (done.exit_code, done.output.splitlines()[0]) == (0, "As segment:")
    for line in (
        "1 track: rule order",
        "    purchase at 2026-03-01 12:00:00+00:00 {",
        '"item_id":"tea","properties":{"price":3.5}}',
        '    user ada {"plan":"gold"}',
        "3 group: ignored, no rule fits",
    ):
        assert line in done.output


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (json.dumps(ORDER), "segment"),
        (json.dumps({"batch": [ORDER]}), "segment"),
        (json.dumps({"events": [{"name": "login"}]}), "ga4"),
        (PLAIN, "plain"),
        (f"{PLAIN}\n{PLAIN}", "plain"),
        (f"[{PLAIN}]", "plain"),
    ],
)
def test_the_sender_is_known_by_its_fields(tmp_path: Path, text: str, source: str) -> None:
    done = attempt(tmp_path, text, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["source"] == source


def test_refusals_and_unreadable_files(tmp_path: Path) -> None:
    nobody = attempt(tmp_path, '{"event": "click", "item": "A"}')
    assert nobody.exit_code == 7
    assert "refused: no_subject: no user: rule clicks reads one from user_id, uid" in nobody.output
    assert "a device from device_id, visitor_id" in nobody.output
    for text in ("", "7", "\x00"):
        odd = attempt(tmp_path, text)
        assert odd.exit_code == 1
        assert "not what plain sends" in odd.output
    other = attempt(tmp_path, PLAIN, "--source", "segment")
    assert "not what segment sends: the list `batch` is missing" in other.output
