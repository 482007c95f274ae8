"""Sinks of messages: signed webhook, Slack-compatible address, mail by SMTP.

Secrets come from the environment or from files, and are in no message, log line or stored problem.
"""

from __future__ import annotations

import contextlib
import email.message
import email.utils
import http.client
import smtplib
import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec

from tactful.config.settings import secret
from tactful.errors import ConfigError
from tactful.schemas.alert_routes import AlertRoute, EmailSink, Sink, SlackSink, WebhookSink
from tactful_streaming.sinks.webhook import post_request, post_signed


class AlertMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message about an alert, as a webhook receives it.

    Attributes:
        event: `opened`, `cleared`, `decision` or `test`.
        id: number of the alert; 0 of a test.
        rule: name of the rule.
        severity: its severity.
        message: what is wrong.
        labels: labels of the alert.
        at: time of the event, epoch milliseconds.
        runbook: address of the section of the rule in the runbook.
    """

    event: str
    id: int
    rule: str
    severity: str
    message: str
    labels: dict[str, str]
    at: int
    runbook: str

    def title(self) -> str:
        """Return one line for people."""
        kind = self.severity.upper() if self.event == "opened" else self.event.upper()
        return f"[tactful] {kind} {self.rule}"


def check_sinks(route: AlertRoute) -> None:
    """Raise ConfigError if a secret of a route is missing, or an address is not given."""
    for sink, name in zip(route.sinks, route.sink_names(), strict=True):
        if isinstance(sink, EmailSink):
            password = _password(sink, name)
            if bool(sink.user) != (password is not None):
                raise ConfigError(f"{name}: give both user and password_env or password_file")
            if sink.user and sink.security == "none":
                raise ConfigError(f"{name}: a password is not sent without starttls or tls")
        else:
            _address(sink, name)


def send(
    sink: Sink,
    name: str,
    message: AlertMessage,
    *,
    key: str,
    smtp: Callable[[EmailSink], smtplib.SMTP] | None = None,
) -> str:
    """Send a message once; return the reason of a failure, or an empty text.

    `key` is the same at each attempt, so that a receiver can drop a repetition.
    """
    try:
        if isinstance(sink, EmailSink):
            return _mail(sink, name, message, key, smtp or _connect)
        if isinstance(sink, SlackSink):
            return _slack(sink, name, message)
        signing = secret(name, sink.secret_env)
        if signing is None:
            signing = secret(name, "", Path(sink.secret_file))
        problem, _ = post_signed(
            _address(sink, name),
            msgspec.json.encode(message),
            key,
            secret=None if signing is None else signing.encode(),
            timeout_s=sink.timeout_s,
        )
        return problem or ""
    except ConfigError as error:
        return str(error)


def _slack(sink: SlackSink, name: str, message: AlertMessage) -> str:
    link = message.runbook.startswith(("http://", "https://"))
    runbook = f"<{message.runbook}|Runbook>" if link else f"Runbook: {message.runbook}"
    text = f"*{message.title()}*\n{_escaped(message.message)}\n{runbook}"
    body = msgspec.json.encode({"text": text})
    headers = {"Content-Type": "application/json"}
    try:
        answer = post_request(_address(sink, name), body, headers, sink.timeout_s)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {type(error).__name__}"
    return "" if 200 <= answer.status < 300 else f"answered with status {answer.status}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _mail(
    sink: EmailSink,
    name: str,
    message: AlertMessage,
    key: str,
    connect: Callable[[EmailSink], smtplib.SMTP],
) -> str:
    password = _password(sink, name)
    mail = email.message.EmailMessage()
    mail["Subject"] = message.title()
    mail["From"] = sink.sender
    mail["To"] = ", ".join(sink.to)
    mail["Date"] = email.utils.formatdate(message.at / 1000)
    mail["Message-ID"] = f"<{key}@{sink.sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(f"{message.message}\n\nRunbook: {message.runbook}\n")
    try:
        with contextlib.closing(connect(sink)) as server:
            if sink.security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if sink.user and password is not None:
                server.login(sink.user, password)
            refused = server.send_message(mail)
            with contextlib.suppress(smtplib.SMTPException):
                server.quit()
    except smtplib.SMTPResponseException as error:
        return f"the mail server answered with {error.smtp_code}"
    except (smtplib.SMTPException, OSError) as error:
        return f"no mail was sent: {type(error).__name__}"
    return f"{len(refused)} receivers were refused" if refused else ""


def _connect(sink: EmailSink) -> smtplib.SMTP:
    if sink.security == "tls":
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(sink.host, sink.port, timeout=sink.timeout_s, context=context)
    return smtplib.SMTP(sink.host, sink.port, timeout=sink.timeout_s)


def _password(sink: EmailSink, name: str) -> str | None:
    password = secret(name, sink.password_env)
    return secret(name, "", Path(sink.password_file)) if password is None else password


def _address(sink: WebhookSink | SlackSink, name: str) -> str:
    address = sink.url if isinstance(sink, WebhookSink) else ""
    address = address or secret(name, sink.url_env) or secret(name, "", Path(sink.url_file)) or ""
    if not address:
        raise ConfigError(f"{name}: the address is missing: set url_env or url_file")
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"{name}: the address must begin with https:// or http://")
    return address
