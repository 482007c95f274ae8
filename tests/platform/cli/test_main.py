"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import click
import pytest
from click.testing import CliRunner, Result
from tests.platform.support import Live

from tactful.cli.main import main
from tactful.config.settings import Settings
from tactful.maintenance.doctor import examine
from tactful.metadata.api_keys import KeyStore
from tactful.metadata.store import open_metadata
from tactful.util.lazy_commands import LazyCommand, LazyGroup

pytestmark = pytest.mark.usefixtures("elsewhere")


def run(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(main, [str(it) for it in arguments], **options)


def nobody() -> str:
    """The URL of a port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_key_is_printed_once_and_works(tmp_path: Path) -> None:
    made = run("keys", "create", "--scope", "ingest", "--scope", "analyst", "--note", "shop")
    assert made.exit_code == 0
    key = made.stdout.strip()
    with closing(open_metadata(tmp_path / "tactful-data" / "metadata.db")) as metadata:
        found = KeyStore(metadata, clock=lambda: 0).check(key)
    assert found is not None
    assert found.scopes == {"ingest", "analyst"}
    listed = run("keys", "list")
    assert found.id in listed.stdout
    assert key not in listed.output
    assert (tmp_path / "tactful-data").stat().st_mode & 0o077 == 0, "nobody else may look"


def test_keys_as_json_and_revocation() -> None:
    made = json.loads(run("keys", "create", "--scope", "admin", "--json", "--data", "d").stdout)
    assert run("keys", "revoke", made["id"], "--data", "d").exit_code == 0
    (listed,) = json.loads(run("keys", "list", "--json", "--data", "d").stdout)
    assert listed["id"] == made["id"]
    assert listed["scopes"] == ["admin"]
    assert listed["revoked_at"] is not None
    again = run("keys", "revoke", made["id"], "--data", "d")
    assert again.exit_code == 2
    assert again.stderr.startswith("tactful: no valid key")


def test_keys_with_an_end_and_limits() -> None:
    options = ("--expires", "90d", "--rate", "2.5", "--events-per-day", "1000", "--json")
    made = json.loads(run("keys", "create", "--scope", "ingest", *options).stdout)
    limits = {"rate": 2.5, "burst": None, "requests_per_day": None, "events_per_day": 1000}
    assert made["limits"] == limits
    new = json.loads(run("keys", "rotate", made["id"], "--overlap", "12h", "--json").stdout)
    assert (new["limits"], new["scopes"]) == (limits, ["ingest"])
    old, listed = json.loads(run("keys", "list", "--json").stdout)
    assert old["expires_at"] - listed["created_at"] == 12 * 3_600_000
    assert listed["expires_at"] - listed["created_at"] == 90 * 86_400_000
    assert (listed["limits"], listed["last_used"]) == (limits, None)
    assert run("keys", "limit", new["id"], "--rate", "9").exit_code == 0
    (line,) = (it for it in run("keys", "list").stdout.splitlines() if new["id"] in it)
    assert "valid" in line and "not used" in line and "until 20" in line
    assert "9 requests/s, 9 at once" in line
    assert "events/day" not in line
    for wrong in ("90", "d", "-1d", "1y", "99999d", "٣d"):
        refused = run("keys", "create", "--scope", "ingest", "--expires", wrong)
        assert refused.exit_code == 2, wrong
    refused = run("keys", "create", "--scope", "ingest", "--burst", "5")
    assert (refused.exit_code, refused.stderr) == (
        2,
        "tactful: the limit burst needs the limit rate\n",
    )


def test_mistakes_end_with_one_line_and_their_code(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[server]\nprot = 1\n")
    for arguments, code, part in (
        (("serve", "--config", "bad.toml"), 2, "did you mean 'port'"),
        (("serve", "--dev", "--host", "0.0.0.0"), 2, "disables API keys"),
        (("serve", "--port", "70000"), 2, "65535"),
        (("keys", "create", "--scope", "root"), 2, "unknown scope"),
        (("recommend", "--url", nobody(), "--user", "u"), 3, "does not answer"),
    ):
        result = run(*arguments)
        assert result.exit_code == code, result.output
        assert part in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert result.stdout == ""


def test_a_taken_port_is_said_before_anything_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = run("serve", "--dev", "--port", listener.getsockname()[1])
    assert result.exit_code == 1
    assert "in use" in result.stderr
    assert not (tmp_path / "tactful-data").exists()


def test_a_used_data_directory_is_said(live: Live) -> None:
    result = run("serve", "--dev", "--port", 0, "--data", live.platform.settings.storage.data)
    assert result.exit_code == 1
    assert "another process uses" in result.stderr


def test_recommend_prints_a_list_or_json(live: Live) -> None:
    position = live.http.put("/v1/items", json=[{"item_id": "a"}, {"item_id": "b"}]).json()
    options = ("--url", live.url, "--user", "u", "--after", position["position"])
    table = run("recommend", *options, "--explain")
    document = json.loads(run("recommend", *options, "--count", 1, "--json").stdout)
    assert table.exit_code == 0
    assert table.stdout.splitlines()[:2] == ["  1  a  1.0000  all", "  2  b  1.0000  all"]
    assert '"views"' in table.stdout
    assert [item["item_id"] for item in document["items"]] == ["a"]


def test_an_address_needs_no_scheme(live: Live) -> None:
    bare = live.url.removeprefix("http://")
    for options in (("--url", bare), ("--url", f"http://{bare}/")):
        assert run("recommend", *options, "--user", "u").exit_code == 0
    assert run("recommend", "--user", "u", env={"TACTFUL_URL": bare}).exit_code == 0
    wrong = run("recommend", "--url", "ftp://shop.example", "--user", "u")
    assert wrong.exit_code == 2
    assert "ftp://shop.example' is no address of a server" in wrong.stderr
    flink = ("flink", "submit", "features.yaml", "--kafka", "b:9092", "--gateway", "redis://x")
    Path("features.yaml").write_text("[]\n")
    assert "'redis://x' is no address of a server" in run(*flink).stderr


def test_the_key_comes_from_the_environment_or_a_file(locked: Live, tmp_path: Path) -> None:
    key, _ = locked.platform.keys.create(["recommend"])
    (tmp_path / "key").write_text(key + "\n")
    options = ("recommend", "--url", locked.url, "--user", "u")
    assert run(*options).exit_code == 4
    assert run(*options, "--key-file", "key").exit_code == 0
    assert run(*options, env={"TACTFUL_API_KEY": key}).exit_code == 0


def test_the_doctor_says_what_it_found(tmp_path: Path) -> None:
    result = run("doctor", "--port", 0, "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert result.exit_code == 0, result.stdout
    for name in ("python", "features", "disk", "data directory", "port 0"):
        assert checks[name]["state"] == "ok", checks[name]
    assert checks["API keys"]["state"] == "warning"
    assert "tactful keys create" in checks["API keys"]["said"]
    assert checks["model"]["state"] == "warning"
    assert "no model was ever trained" in checks["model"]["said"]
    assert "tactful train --promote" in checks["model"]["said"]
    assert checks["erasures"]["state"] == "ok"
    assert run("keys", "create", "--scope", "admin").exit_code == 0
    assert "1 valid" in run("doctor", "--port", 0).stdout
    assert not list((tmp_path / "tactful-data").glob("doctor-*"))


@pytest.mark.slow
def test_the_doctor_fails_for_what_keeps_a_server_from_working(tmp_path: Path) -> None:
    (tmp_path / "features.yaml").write_text("- {name: views_5m, entity: nobody}\n")
    (tmp_path / "tactful.toml").write_text('[engine]\nfeatures = "features.yaml"\n')
    (tmp_path / "file").write_text("in the way")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = run("doctor", "--port", port, "--data", tmp_path / "file", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert result.exit_code == 7
    failed = {name for name, check in checks.items() if check["state"] == "failed"}
    assert failed == {"features", "permissions", "disk", "metadata", f"port {port}"}


def test_the_doctor_tells_of_what_lists_are_made_from(settings: Settings) -> None:
    found = next(check for check in examine(settings) if check.name == "features")
    assert found.state == "warning"
    assert "recommendations need" in found.said and "sold_28d" in found.said


def test_the_doctor_knows_its_own_server(live: Live) -> None:
    data = live.platform.settings.storage.data
    checks = json.loads(run("doctor", "--port", live.port, "--data", data, "--json").stdout)
    states = {check["name"]: check for check in checks}
    assert states[f"port {live.port}"]["state"] == "warning"
    assert "running" in states[f"port {live.port}"]["said"]
    assert states["data directory"]["state"] == "warning"


@pytest.mark.parametrize(
    ("call", "proposed"),
    [("improt x.csv", "'import'"), ("keys creat", "'create'"), ("models promot 3", "'promote'")],
)
def test_a_misspelt_command_is_named_with_the_right_one(call: str, proposed: str) -> None:
    result = run(*call.split())
    wrong = next(word for word in call.split() if word not in ("keys", "models"))
    assert result.exit_code == 2
    assert repr(wrong) in result.stderr and proposed in result.stderr


def test_files_that_cannot_be_written_end_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    run("keys", "list")  # makes the data directory
    result = run("user", "export", "ada", "--to", "file/out")
    assert (result.exit_code, result.stderr) == (1, "tactful: file/out: Not a directory\n")
    result = run("privacy", "audit", "--quick", "--plots", "file/plots")
    assert (result.exit_code, result.stderr) == (1, "tactful: file/plots: Not a directory\n")
    for error, words in ((OSError(errno.ENOSPC, "No space left on device"), "No space left"),
                         (OSError(errno.EBADF, "Bad file descriptor"), None)):  # fmt: skip
        monkeypatch.setattr("tactful.cli.doctor.examine", Mock(side_effect=error))
        result = run("doctor", "--data", tmp_path / "data")
        assert result.exit_code == 1
        if words is None:
            assert result.exception is error, "a fault of ours keeps its traceback"
        else:
            assert result.stderr.startswith(f"tactful: {words}")


def test_every_command_helps() -> None:
    for command in ((), *((name,) for name in main.list_commands(click.Context(main)))):
        result = run(*command, "--help")
        assert result.exit_code == 0
        assert "Usage: " in result.stdout


def lazy_groups() -> Iterator[LazyGroup]:
    waiting: list[click.Command | None] = [main]
    for group in waiting:
        if isinstance(group, LazyGroup):
            yield group
            context = click.Context(group)
            waiting += [group.get_command(context, name) for name in group.lazy]


def test_short_help_texts_are_those_of_the_commands() -> None:
    groups = list(lazy_groups())
    assert {group.name for group in groups} == {"main", "federated", "experiment", "flags"}
    for group in groups:
        for name, lazy in group.lazy.items():
            command = group.get_command(click.Context(group), name)
            assert command is not None and command.name == name
            first = " ".join((command.help or "").split("\n\n")[0].split())
            assert first.startswith(lazy.help), name


def test_help_imports_no_command() -> None:
    code = (
        "import sys\n"
        "from tactful.cli.main import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print(sorted(m for m in sys.modules if m.startswith('tactful') or m == 'numpy'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = ["tactful", "tactful.cli", "tactful.cli.exit_codes", "tactful.cli.main"]
    modules += ["tactful.errors", "tactful.util"]
    modules += ["tactful.util.extras", "tactful.util.lazy_commands", "tactful_privacy"]
    modules += ["tactful_privacy.errors", "tactful_privacy.lazy_imports"]
    assert done.stdout.splitlines()[-1] == str(modules)


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(main.lazy, "sink", LazyCommand("no_such_package.sink:sink", ""))
    result = run("sink")
    assert result.exit_code == 1
    assert result.stderr == (
        "tactful: main sink: No module named 'no_such_package': install no_such_package with pip\n"
    )
