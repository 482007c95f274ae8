"""`tactful federated enrol-pages` names what keeps it from starting."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.federated.wire_terms import AUTHORITY, INVITATION

from tactful.cli.main import main
from tactful_federated.core.invitation import save_invitation


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_invitation(tmp_path / "invitation.json", INVITATION)
    (tmp_path / "authority.key").write_bytes(AUTHORITY.private_bytes_raw())
    return tmp_path


def refused(directory: Path, *options: str) -> str:
    command = ["federated", "enrol-pages", str(directory), "--origin", "https://a.example"]
    found = CliRunner().invoke(main, [*command, *options])
    assert found.exit_code == 2, found.output
    return found.output


def test_the_key_is_that_of_the_invitation(directory: Path) -> None:
    (directory / "authority.key").write_bytes(bytes(32))
    assert "is not the key that" in refused(directory)
    (directory / "authority.key").unlink()
    assert "authority.key is missing" in refused(directory)


def test_a_port_in_use_is_named(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}" in refused(directory, "--port", str(port))


def test_an_origin_is_needed(directory: Path) -> None:
    found = CliRunner().invoke(main, ["federated", "enrol-pages", str(directory)])
    assert found.exit_code == 2 and "--origin" in found.output
