"""Routes of the messages of alerts: which alerts, when, and to which sinks."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tactful.schemas.alerts import Severity

_Address = Annotated[str, Meta(pattern=r"^(https?://[^\s]+)?$", max_length=2_000)]
_Variable = Annotated[str, Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")]
_Mail = Annotated[str, Meta(pattern=r"^[^\s@<>,]+@[^\s@<>,]+$", max_length=320)]
_Time = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class _Sink(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"
):
    """Fields of sinks of all kinds: longest time of an attempt, number of attempts."""

    timeout_s: Annotated[float, Meta(gt=0, le=120)] = 10.0
    attempts: Annotated[int, Meta(ge=1, le=50)] = 8

    @property
    def kind(self) -> str:
        """The kind of sink, such as ``webhook``."""
        return str(self.__struct_config__.tag)


class WebhookSink(_Sink, frozen=True, kw_only=True, tag="webhook"):
    """Posts JSON to an address, signed if there is a secret."""

    url: _Address = ""
    url_env: _Variable = ""
    url_file: str = ""
    secret_env: _Variable = ""
    secret_file: str = ""


class SlackSink(_Sink, frozen=True, kw_only=True, tag="slack"):
    """Posts text to an incoming webhook of Slack, Mattermost, Rocket.Chat or Discord (`/slack`).

    Such an address is a secret, so it comes from a variable or a file.
    """

    url_env: _Variable = ""
    url_file: str = ""


class EmailSink(_Sink, frozen=True, kw_only=True, tag="email"):
    """Sends a mail by SMTP; `security` is `starttls`, `tls` from the start, or `none`."""

    host: Annotated[str, Meta(min_length=1)]
    port: Annotated[int, Meta(ge=1, le=65535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password_env: _Variable = ""
    password_file: str = ""
    sender: _Mail
    to: Annotated[list[_Mail], Meta(min_length=1, max_length=50)]


Sink = WebhookSink | SlackSink | EmailSink


class QuietHours(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Daily hours in which messages wait, except those of `unless`.

    Attributes:
        begins: local time, `from` in the file.
        ends: local time, `to` in the file; may lie on the next day.
        zone: time zone of both.
        unless: severities that do not wait.
    """

    begins: _Time = msgspec.field(name="from")
    ends: _Time = msgspec.field(name="to")
    zone: str = "UTC"
    unless: tuple[Severity, ...] = ("critical",)

    def __post_init__(self) -> None:
        """Refuse an unknown time zone."""
        try:
            zoneinfo.ZoneInfo(self.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{self.zone!r} is no time zone: write UTC or Europe/Berlin") from None

    def holds(self, severity: str, now: int) -> bool:
        """Return whether a message of `severity` waits at `now`, epoch milliseconds."""
        if severity in self.unless:
            return False
        moment = dt.datetime.fromtimestamp(now / 1000, zoneinfo.ZoneInfo(self.zone))
        clock = f"{moment:%H:%M}"
        if self.begins <= self.ends:
            return self.begins <= clock < self.ends
        return clock >= self.begins or clock < self.ends


class AlertRoute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Route of the messages of some alerts.

    Attributes:
        name: name that rules refer to.
        severities: severities that it takes.
        quiet: hours in which messages wait; None for none.
        sinks: receivers of each message.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
    severities: tuple[Severity, ...] = ("warning", "critical")
    quiet: QuietHours | None = None
    sinks: Annotated[list[Sink], Meta(min_length=1, max_length=8)]

    def sink_names(self) -> list[str]:
        """Return a name for each sink, such as ``night_shift/1 slack``."""
        return [f"{self.name}/{number} {sink.kind}" for number, sink in enumerate(self.sinks, 1)]
