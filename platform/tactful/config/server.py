"""Settings of the server process: address, limits, webhooks, sources, workers, log lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import PositiveFloat, PositiveInt, Variable


@dataclass(frozen=True)
class ServerSettings:
    """Settings of the HTTP server."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"  # address to listen on
    port: Annotated[int, Meta(ge=0, le=65535)] = 8420  # TCP port; 0 takes a free one
    dev: bool = False  # no API keys and replay of past times; only on a loopback address
    # number of worker processes; 0: the process that owns the state answers requests
    workers: Annotated[int, Meta(ge=0, le=256)] = 0
    header_timeout_s: PositiveFloat = 10.0  # longest time for the head of a request to arrive
    # longest time for the body of a request to arrive, and without reading of a response
    body_timeout_s: PositiveFloat = 30.0
    head_bytes: Annotated[int, Meta(ge=8192)] = 32 * 1024  # of a request line, and of headers
    # open connections of a process, beyond which the longest idle one is closed
    connections: PositiveInt = 768
    # time after which an idle connection is closed; a proxy in front should close it earlier
    keep_alive_s: PositiveInt = 75
    shutdown_s: PositiveInt = 20  # longest time for requests in progress to finish at a stop
    # recommendation requests that may wait before others get 503
    recommend_queue: PositiveInt = 128
    recommend_wait_s: PositiveFloat = 1.0  # longest wait of one during a burst
    recommend_standing_s: PositiveFloat = 0.05  # longest predicted wait of one during overload
    after_wait_s: PositiveFloat = 2.0  # longest wait of ``after`` for the engine
    # origins whose web pages may send events and request recommendations, such as
    # ``https://shop.example``, separated by commas; empty for none
    cors_origins: str = ""
    # addresses of proxies in front, separated by commas, whose X-Forwarded-For names the client
    proxies: str = "127.0.0.1, ::1"
    # send traces over OTLP, to the address in OTEL_EXPORTER_OTLP_ENDPOINT; needs the extra tracing
    traces: bool = False
    # PEM file with the certificate of the server and those between it and its authority; empty for
    # plain HTTP
    tls_certificate: Path = Path()
    tls_key: Path = Path()  # PEM file with its private key; empty if that is in the same file
    tls_key_password_env: Variable = ""  # variable with the password of an encrypted key
    # PEM file with the authorities of clients, which then must have a certificate; empty for none
    tls_client_ca: Path = Path()
    tls_reload_s: PositiveFloat = 60.0  # seconds between two looks for renewed files

    @property
    def key_of_certificate(self) -> Path:
        """File with the private key of the certificate."""
        return self.tls_certificate if self.tls_key == Path() else self.tls_key

    @property
    def tls_files(self) -> tuple[Path, ...]:
        """Files that TLS needs; none for plain HTTP."""
        named = (self.tls_certificate, self.key_of_certificate, self.tls_client_ca)
        return tuple(path for path in dict.fromkeys(named) if path != Path())

    @property
    def scheme(self) -> str:
        """Scheme of the addresses of the server."""
        return "http" if self.tls_certificate == Path() else "https"

    @property
    def trusted_proxies(self) -> frozenset[str]:
        """Addresses of the proxies in front."""
        return frozenset(filter(None, map(str.strip, self.proxies.split(","))))


@dataclass(frozen=True)
class OidcSettings:
    """Settings of sign-in by OpenID Connect: an issuer, and the rights of its groups."""

    issuer: str = ""  # address of the issuer, as in its tokens; empty: API keys only
    client_id: str = ""  # the client that the tokens are issued to, their audience
    # claim with the groups of a person; dots lead into it, as in realm_access.roles
    groups_claim: Annotated[str, Meta(min_length=1)] = "groups"
    admin_groups: str = ""  # groups with the scope ``admin``, separated by commas
    analyst_groups: str = ""  # groups with the scope ``analyst``
    monitor_groups: str = ""  # groups with the scope ``monitor``

    @property
    def scopes_by_group(self) -> Mapping[str, frozenset[str]]:
        """The scopes that each group gives."""
        given: dict[str, frozenset[str]] = {}
        for scope in ("admin", "analyst", "monitor"):
            for group in filter(None, map(str.strip, getattr(self, f"{scope}_groups").split(","))):
                given[group] = given.get(group, frozenset()) | {scope}
        return given


@dataclass(frozen=True)
class ActionSettings:
    """Settings of the webhook for actions that sequences and joins emit."""

    webhook_url: str = ""  # address that every action is posted to; empty for none
    secret_env: Variable = ""  # variable with the secret that signs the requests …
    secret_file: Path = Path()  # … or the file that holds it
    attempts: PositiveInt = 12  # most attempts to send one action
    timeout_s: PositiveFloat = 10.0  # longest time of one attempt


@dataclass(frozen=True)
class SourceSettings:
    """Settings of messages that other programs send."""

    mapping: Path = Path()  # file of the rules by which they become events; empty: packaged ones


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of ``tactful worker``, which computes a share of the partitions."""

    group: Annotated[str, Meta(min_length=1)] = "tactful-worker"  # consumer group
    instance: str = ""  # name of this member that survives a restart; empty for a new one each time
    threads: Annotated[int, Meta(ge=1, le=256)] = 1  # number of members in this process
    lead_ms: PositiveInt = 60_000  # longest lead of the event time of a partition over the others
    # silence after which a partition no longer delays the others, and uses the wall clock
    idle_s: PositiveFloat = 5.0
    fired_topic: str = ""  # topic for the results of triggered windows; empty for none
    late_topic: str = ""  # topic for events that came too late; empty for none
    # directory, shared by all hosts, of copies of the state; empty for none
    checkpoints: Path = Path()
    checkpoints_url: str = ""  # … or their place in a bucket: ``s3://BUCKET/PREFIX``
    checkpoint_s: PositiveInt = 300  # seconds between two copies
    shutdown_s: PositiveFloat = 35.0  # longest time to end; then the process ends without a commit
    # port for metrics, /healthz and /readyz; 0 for none
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    metrics_host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"  # address to listen on for that


@dataclass(frozen=True)
class LimitSettings:
    """Limits of requests."""

    body_bytes: Annotated[int, Meta(ge=1024)] = 4 * 1024 * 1024  # largest body
    browser_body_bytes: Annotated[int, Meta(ge=1024)] = 256 * 1024  # with a browser key
    batch: PositiveInt = 1_000  # most events, items or users in one request
    # longest lead of an event's time over the server's clock
    future_ms: Annotated[int, Meta(ge=0)] = 300_000
    # bytes that may wait for the disk before new events get 429
    pending_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024 * 1024
    # log records the engine may lag behind before new events get 429
    engine_lag: PositiveInt = 200_000
    # requests and events a second with one browser key, averaged over 10 s; 0 for no limit
    browser_key_rate: Annotated[float, Meta(ge=0)] = 1_000.0
    device_rate: Annotated[float, Meta(ge=0)] = 30.0  # the same of one device
    # requests with a key, and events, a second, of all keys together, averaged over 10 s; 0 for no
    # limit
    request_rate: Annotated[float, Meta(ge=0)] = 0.0
    event_rate: Annotated[float, Meta(ge=0)] = 0.0
    # devices that one address may make known in an hour, with one browser key; 0 for no limit
    new_devices_per_hour: Annotated[int, Meta(ge=0)] = 30


@dataclass(frozen=True)
class LoggingSettings:
    """Settings of log lines."""

    # least severe level that is logged
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"  # ``text`` or ``json``, one object a line
