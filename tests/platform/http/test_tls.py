"""TLS of the server: real connections of real clients."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner
from tests.platform.certificates import Authority
from tests.platform.support import Live, build, small_settings, wait_until

from tactful.cli.main import main
from tactful.client import Client, tls_context
from tactful.config.server import ServerSettings
from tactful.config.settings import Settings
from tactful.errors import ConfigError, ConnectionFailed
from tactful.http.tls import certificate as tls
from tactful.http.tls.certificate import Certificate
from tactful.server.platform import Platform

DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(directory: Path) -> Authority:
    return Authority(directory)


@pytest.fixture(scope="module")
def other(directory: Path) -> Authority:
    return Authority(directory, "other")


def named(files: tuple[Path, Path], **further: Path | str) -> ServerSettings:
    return ServerSettings(tls_certificate=files[0], tls_key=files[1], **further)  # type: ignore[arg-type]


# The files.


def test_a_certificate_is_loaded(authority: Authority) -> None:
    loaded = Certificate(named(authority.issue("fine")))
    assert loaded.warnings() == []
    assert 89 * DAY < loaded.ends_at - dt.datetime.now(dt.UTC) <= 90 * DAY
    files = authority.issue("both")
    both = files[0].with_name("whole.pem")
    both.write_bytes(files[0].read_bytes() + files[1].read_bytes())
    assert Certificate(ServerSettings(tls_certificate=both)).ends_at > loaded.ends_at - DAY


def test_the_password_of_a_key_comes_from_a_variable(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = authority.issue("sealed", password="open sesame")
    with pytest.raises(ConfigError, match=r"sealed\.key is encrypted.*tls_key_password_env"):
        Certificate(named(files))
    settings = named(files, tls_key_password_env="THE_PASSWORD")
    with pytest.raises(ConfigError, match="THE_PASSWORD: it is not set"):
        Certificate(settings)
    monkeypatch.setenv("THE_PASSWORD", "another")
    with pytest.raises(ConfigError, match="or its password is wrong"):
        Certificate(settings)
    monkeypatch.setenv("THE_PASSWORD", "open sesame")
    assert Certificate(settings).warnings() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tls_certificate": "absent.pem"}, r"tls_certificate: .*absent.pem cannot be read: No"),
        ({"tls_certificate": "mine.key"}, r"tls_certificate: .*mine.key holds no certificates"),
        ({"tls_key": "absent.key"}, r"tls_key: .*absent.key cannot be read"),
        ({"tls_key": "mine.pem"}, r"tls_key: .*mine.pem holds no private key"),
        ({"tls_key": "another.key"}, r"another.key is not the key of the certificate in .*mine"),
        ({"tls_client_ca": "mine.key"}, r"tls_client_ca: .*mine.key holds no certificates"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    authority: Authority, directory: Path, changes: dict[str, str], said: str
) -> None:
    authority.issue("another")
    settings = named(authority.issue("mine"))
    wrong: dict[str, Any] = {setting: directory / name for setting, name in changes.items()}
    with pytest.raises(ConfigError, match=said) as refusal:
        Certificate(replace(settings, **wrong))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["tls_key", "tls_client_ca"])
def test_a_key_without_a_certificate_is_refused(name: str) -> None:
    alone: dict[str, Any] = {name: Path("k")}
    with pytest.raises(ConfigError, match=rf"server\.{name} is set without"):
        Settings(server=ServerSettings(**alone))


def test_an_end_that_is_near_or_past_and_an_open_key_are_warned_about(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    now = dt.datetime.now(dt.UTC)
    fine = Certificate(named(authority.issue("later", valid=8 * DAY)), clock=lambda: now)
    assert fine.warnings() == []
    soon = Certificate(named(authority.issue("soon", valid=6 * DAY)))
    assert "expires on" in soon.warnings()[0]
    files = authority.issue("past", valid=-DAY)
    assert "expired on" in Certificate(named(files)).warnings()[0]
    for mode, count in ((0o600, 0), (0o640, 0), (0o604, 1), (0o644, 1)):
        files = authority.issue("open")
        files[1].chmod(mode)
        found = Certificate(named(files)).warnings()
        assert [f"chmod 600 {files[1]}" in it for it in found] == [True] * count
    # A server that runs on and on says it once a day.
    with caplog.at_level(logging.WARNING):
        for _ in range(72):
            now += dt.timedelta(hours=1)
            fine.renew()
    assert sum("expires on" in line for line in caplog.messages) == 3  # of the last three days


def test_a_renewal_in_two_steps_is_taken_when_it_is_whole(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = tmp_path / "s.pem", tmp_path / "s.key"
    for source, target in zip(authority.issue("one"), files, strict=True):
        shutil.copy(source, target)
    used = Certificate(named(files))
    first, context = used.ends_at, used._newest
    assert not used.renew()
    new = authority.issue("two", valid=20 * DAY)
    shutil.copy(new[0], files[0])
    assert not used.renew()
    assert "is not the key of the certificate" in caplog.text
    said = len(caplog.messages)
    assert not used.renew(), "and it is said once"
    assert (used.ends_at, used._newest, len(caplog.messages)) == (first, context, said)
    files[1].unlink()
    assert not used.renew()
    shutil.copy(new[1], files[1])
    assert used.renew()
    assert used.ends_at < first
    assert used._newest is not context


# Connections.


def test_the_next_connection_takes_a_renewed_certificate(live: Live, authority: Authority) -> None:
    context, used = context_of(authority.file), live._server.certificate
    assert used is not None
    with httpx.Client(base_url=address(live), verify=context) as kept:
        assert kept.get("/healthz").status_code == 200
        authority.issue("server", valid=20 * DAY)
        before = used.ends_at
        assert used.renew()
        assert used.ends_at < before
        assert end_of(live, context) == pytest.approx(used.ends_at.timestamp(), abs=1)
        assert kept.get("/healthz").status_code == 200, "open connections stay"


@pytest.fixture(scope="module")
def live(directory: Path, authority: Authority) -> Iterator[Live]:
    """A server with TLS."""
    settings = small_settings(directory)
    files = authority.issue("server")
    server = replace(settings.server, tls_certificate=files[0], tls_key=files[1])
    with Live(Platform.open(replace(settings, server=server), build), ready=False) as live:
        yield live


def address(live: Live) -> str:
    return f"https://localhost:{live.port}"


def test_clients_that_trust_the_authority_are_served(
    live: Live, authority: Authority, other: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(address(live), tls=tls_context(authority.file), retries=0) as client:
        assert client.health().status == "ok"
    for context in (None, tls_context(other.file)):
        with (
            Client(address(live), tls=context, retries=0) as client,
            pytest.raises(ConnectionFailed, match=r"not accepted.*--ca, TACTFUL_CA or SSL_CERT"),
        ):
            client.health()
    command = ["curl", "-sS", "--cacert", str(authority.file), f"{address(live)}/metrics"]
    if shutil.which("curl"):
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "tactful_" in ran.stdout


def test_old_versions_of_tls_are_refused(live: Live, authority: Authority) -> None:
    found = {}
    for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=authority.file)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.set_alpn_protocols(["h2", "http/1.1"])
        with pytest.warns(DeprecationWarning) if version < 0x303 else contextlib.nullcontext():
            context.minimum_version = context.maximum_version = version
        with socket.create_connection(("127.0.0.1", live.port), timeout=20) as plain:
            try:
                with context.wrap_socket(plain, server_hostname="localhost") as secured:
                    found[version.name] = secured.selected_alpn_protocol()
            except (ssl.SSLError, OSError) as error:
                found[version.name] = type(error).__name__
    assert (found.pop("TLSv1_1") or "").endswith("Error")
    assert found == {"TLSv1_2": "http/1.1", "TLSv1_3": "http/1.1"}


def test_plain_http_gets_no_answer_and_a_hint(live: Live) -> None:
    with (
        Client(f"http://localhost:{live.port}", retries=0) as client,
        pytest.raises(ConnectionFailed, match="If it speaks TLS, write https://"),
    ):
        client.health()
    for sent in (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 5_000, b"\0"):
        with socket.create_connection(("127.0.0.1", live.port), timeout=20) as plain:
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert b"HTTP" not in plain.recv(1_000)


def test_tls_to_a_plain_port_gets_a_hint(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client = Client(f"https://127.0.0.1:{port}", retries=0, timeout=20)
        with client, pytest.raises(ConnectionFailed, match="write http://"):

            def answer() -> None:
                accepted, _ = listener.accept()
                with accepted:
                    accepted.recv(100)
                    accepted.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            try:
                client.health()
            finally:
                thread.join()


# The command, which also limits the handshake, follows renewals and starts workers.


@contextlib.contextmanager
def served(settings: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run ``tactful serve`` in --dev; the address, and the process."""
    command = [sys.executable, "-m", "tactful", "serve", "--dev", "--port", "0", "--json"]
    command += ["--config", str(settings), "--data", str(settings.parent / "data"), *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            yield msgspec.json.decode(process.stdout.readline() or "{}").get("url", ""), process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)


def context_of(ca: Path, shown: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = tls_context(ca)
    assert context is not None
    if shown is not None:
        context.load_cert_chain(*shown)
    return context


def end_of(live: Live, context: ssl.SSLContext) -> float:
    """The end of the certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", live.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return ssl.cert_time_to_seconds(str((secured.getpeercert() or {})["notAfter"]))


def name_of(url: str, context: ssl.SSLContext) -> str:
    """The name in the certificate that a new connection is shown."""
    port = httpx.URL(url).port
    assert port is not None
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        subject = (secured.getpeercert() or {})["subject"]
        return str(subject[0][0][1])


@pytest.mark.slow
def test_a_server_takes_up_renewed_files_and_asks_for_certificates(
    authority: Authority, other: Authority, tmp_path: Path
) -> None:
    files, asked = (tmp_path / "s.pem", tmp_path / "s.key"), tmp_path / "clients.pem"

    def put(name: str) -> None:
        for source, target in zip(authority.issue(name), files, strict=True):
            shutil.copy(source, target.with_suffix(".new"))
            target.with_suffix(".new").replace(target)

    put("first")
    shutil.copy(other.file, asked)
    settings = tmp_path / "tactful.toml"
    settings.write_text(
        '[server]\ntls_certificate = "s.pem"\ntls_key = "s.key"\ntls_client_ca = "clients.pem"\n'
        "tls_reload_s = 0.1\nworkers = 1\n"
    )
    mine = other.issue("client")
    context = context_of(authority.file, mine)
    with served(settings) as (url, process):
        assert url.startswith("https://127.0.0.1:")
        stalled = socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=30)
        began = time.monotonic()
        with httpx.Client(base_url=url, verify=context, timeout=30) as kept:
            assert kept.get("/healthz").status_code == 200
            with (
                httpx.Client(base_url=url, verify=context_of(authority.file)) as bare,
                pytest.raises(httpx.TransportError),
            ):
                bare.get("/healthz")
            assert name_of(url, context) == "first"
            put("second")
            wait_until(lambda: name_of(url, context) == "second", 20)
            assert kept.get("/readyz").status_code in (200, 503), "open connections stay"
            # Authorities of clients are renewed, too.
            shutil.copy(authority.file, asked)
            newer = context_of(authority.file, authority.issue("newer client"))

            def refused() -> bool:
                try:
                    httpx.get(f"{url}/healthz", verify=context)
                except httpx.TransportError:
                    return True
                return False

            wait_until(refused, 20)
            assert httpx.get(f"{url}/healthz", verify=newer).status_code == 200
            with stalled:
                assert stalled.recv(1) == b"", "a handshake that does not begin ends"
            assert time.monotonic() - began < tls.HANDSHAKE_S + 15
            # A client that keeps its connection and reads nothing does not delay the end.
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            assert time.monotonic() - began < 15


def test_a_server_whose_certificate_is_wrong_does_not_start(tmp_path: Path) -> None:
    settings = tmp_path / "tactful.toml"
    settings.write_text('[server]\nport = 0\ntls_certificate = "absent.pem"\n')
    command = ["serve", "--config", str(settings), "--data", str(tmp_path / "data"), "--dev"]
    ran = CliRunner().invoke(main, command)
    assert ran.exit_code == 2
    assert ran.stderr.startswith("tactful: server.tls_certificate: ")
    assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists(), "and opens nothing before"
