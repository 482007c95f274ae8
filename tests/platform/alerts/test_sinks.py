"""Each sink against a real local server: what arrives, and what a failure says."""

from __future__ import annotations

import datetime as dt
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.platform.webhook_receiver import Shop, receiving

from tactful.alerts.sinks import AlertMessage, check_sinks, send
from tactful.errors import ConfigError
from tactful.schemas.alert_routes import AlertRoute, EmailSink, QuietHours, SlackSink, WebhookSink
from tactful_streaming.sinks.webhook import SIGNATURE_HEADER, verify_signature

MESSAGE = AlertMessage(
    event="opened",
    id=7,
    rule="engine_lag",
    severity="critical",
    message="The engine is behind <https://evil.example|click>: 90000, above 50000",
    labels={"server": "a"},
    at=1_700_000_000_000,
    runbook="https://tactful.example/alerts/#engine_lag",
)


class Mailbox(socketserver.ThreadingTCPServer):
    """A mail server: EHLO, STARTTLS, AUTH PLAIN, one mail at a time."""

    allow_reuse_address = True

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.context = context
        self.mails: list[str] = []
        self.logins: list[str] = []
        self.refuses = False

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Session(socketserver.BaseRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self.connection: Any = self.request
        self.lines = self.connection.makefile("rb")
        self.say("220 mail")
        while line := self.lines.readline().decode().strip():
            word = line.split()[0].upper()
            if word == "EHLO":
                self.say("250-mail\r\n250-STARTTLS\r\n250 AUTH PLAIN")
            elif word == "STARTTLS" and self.server.context is not None:
                self.say("220 go")
                self.connection = self.server.context.wrap_socket(self.request, server_side=True)
                self.lines = self.connection.makefile("rb")
            elif word == "AUTH":
                self.server.logins.append(line.split()[-1])
                self.say("235 welcome")
            elif word == "RCPT" and self.server.refuses:
                self.say("452 mailbox full")
            elif word == "DATA":
                self.say("354 go on")
                mail = []
                while (part := self.lines.readline().decode()).rstrip() != ".":
                    mail.append(part)
                self.server.mails.append("".join(mail))
                self.say("250 taken")
            elif word == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 ok")

    def say(self, text: str) -> None:
        self.connection.sendall(text.encode() + b"\r\n")


@pytest.fixture
def mailbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificate(tmp_path / "mail.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "mail.pem"))
    with Mailbox(context) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def make_certificate(path: Path, days: int = 90) -> Path:
    """Write a certificate of localhost with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def _email(mailbox: Mailbox, **fields: Any) -> EmailSink:
    known: dict[str, Any] = {"host": "localhost", "port": mailbox.port, "timeout_s": 5.0}
    return EmailSink(sender="alerts@shop.example", to=["ann@shop.example"], **(known | fields))


def test_a_mail_goes_over_tls_after_a_login(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "hunter2")
    sink = _email(mailbox, user="tactful", password_env="MAIL_PASSWORD")
    assert send(sink, "ops/1 email", MESSAGE, key="alert-1-7") == ""
    [mail] = mailbox.mails
    assert "Subject: [tactful] CRITICAL engine_lag" in mail and "To: ann@shop.example" in mail
    assert "90000, above 50000" in mail and "#engine_lag" in mail
    assert "Message-ID: <alert-1-7@shop.example>" in mail
    assert len(mailbox.logins) == 1 and "hunter2" not in mail


def test_a_mail_server_with_a_wrong_certificate_gets_nothing(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    problem = send(_email(mailbox), "ops/1 email", MESSAGE, key="k")
    assert problem == "no mail was sent: SSLCertVerificationError" and mailbox.mails == []


def test_a_refused_mail_says_why_and_a_dead_server_too(mailbox: Mailbox) -> None:
    mailbox.refuses = True
    problem = send(_email(mailbox), "ops/1 email", MESSAGE, key="k")
    assert "SMTPRecipientsRefused" in problem
    sink = _email(mailbox, port=1, security="none")
    assert "ConnectionRefusedError" in send(sink, "ops/1 email", MESSAGE, key="k")


def test_a_webhook_is_signed_and_has_the_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_SECRET", "s3cret")
    with receiving(500) as shop:
        sink = WebhookSink(url=_url(shop), secret_env="ALERT_SECRET")
        assert send(sink, "ops/1 webhook", MESSAGE, key="k") == "answered with status 500"
        assert send(sink, "ops/1 webhook", MESSAGE, key="k") == ""
        headers, body = shop.attempts[1]
        assert json.loads(body)["rule"] == "engine_lag"
        signature = headers[SIGNATURE_HEADER]
        seconds = int(signature.partition(",")[0].removeprefix("t="))
        assert verify_signature(b"s3cret", body, signature, now=seconds)


def test_slack_gets_text_that_forms_no_link_of_its_own(tmp_path: Path) -> None:
    with receiving() as shop:
        (tmp_path / "slack").write_text(_url(shop) + "\n")
        sink = SlackSink(url_file=str(tmp_path / "slack"))
        assert send(sink, "ops/1 slack", MESSAGE, key="k") == ""
        text = json.loads(shop.attempts[0][1])["text"]
        assert text.startswith("*[tactful] CRITICAL engine_lag*\n")
        assert "&lt;https://evil.example|click&gt;" in text and "#engine_lag|Runbook>" in text


def test_a_secret_is_in_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_URL", "http://127.0.0.1:1/services/T0/SECRET")
    problem = send(SlackSink(url_env="SLACK_URL"), "ops/1 slack", MESSAGE, key="k")
    assert problem and "SECRET" not in problem


@pytest.mark.parametrize(
    "sink",
    [
        SlackSink(),
        SlackSink(url_env="NOT_SET"),
        EmailSink(host="m", sender="a@b.example", to=["a@b.example"], user="u"),
        EmailSink(
            host="m",
            sender="a@b.example",
            to=["a@b.example"],
            user="u",
            security="none",
            password_env="PW",
        ),
    ],
)
def test_a_route_that_could_never_send_is_refused(
    sink: SlackSink | EmailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PW", "p")
    with pytest.raises(ConfigError, match="ops/1"):
        check_sinks(AlertRoute(name="ops", sinks=[sink]))


def test_quiet_hours_cross_midnight_and_follow_the_zone() -> None:
    quiet = QuietHours(begins="22:00", ends="06:30", zone="Europe/Berlin")

    def at(hour: int, minute: int = 0) -> int:
        moment = dt.datetime(2026, 7, 1, hour, minute, tzinfo=dt.UTC)  # Berlin is two hours ahead
        return int(moment.timestamp() * 1000)

    assert quiet.holds("warning", at(20)) and quiet.holds("warning", at(4, 29))
    assert not quiet.holds("warning", at(19, 59)) and not quiet.holds("warning", at(4, 30))
    assert not quiet.holds("critical", at(20))


def _url(shop: Shop) -> str:
    return f"http://127.0.0.1:{shop.server_port}/"
