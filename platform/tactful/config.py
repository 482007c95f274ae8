"""Settings: one ``tactful.toml`` and ``TACTFUL_*`` environment variables, checked at start.

Every setting lives in a section, in the file as ``[server] port = 8420`` and in the environment as
``TACTFUL_SERVER__PORT=8420``; the environment wins. Names without a double underscore, such as
``TACTFUL_API_KEY``, are not settings. Relative paths in a file are relative to that file. There
are no secrets here: those come from their own environment variable or a file named by it.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tactful.errors import ConfigError

_PREFIX = "TACTFUL_"

PositiveInt = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0)]


@dataclass(frozen=True)
class ServerSettings:
    """How the HTTP server listens.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        dev: no API keys and replay of past times; only on a loopback address.
        header_timeout_s: how long the head of a request may take to arrive.
        body_timeout_s: how long the body of a request may take to arrive.
        keep_alive_s: how long an idle connection is kept.
        shutdown_s: how long requests in progress may take to finish at a stop.
        recommend_queue: recommendations that may wait for their turn before others get 503.
        recommend_wait_s: how long one may wait for its turn.
        after_wait_s: how long ``after`` may wait for the engine.
    """

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8420
    dev: bool = False
    header_timeout_s: PositiveFloat = 10.0
    body_timeout_s: PositiveFloat = 30.0
    keep_alive_s: PositiveInt = 30
    shutdown_s: PositiveInt = 20
    recommend_queue: PositiveInt = 128
    recommend_wait_s: PositiveFloat = 1.0
    after_wait_s: PositiveFloat = 2.0


@dataclass(frozen=True)
class StorageSettings:
    """Where things are kept.

    Attributes:
        data: directory of log, engine state and API keys.
        models: directory of models and recall indexes; empty means ``models`` in `data`.
        reports: directory of the JSON reports the server offers.
        durability: what an acknowledged event survives: ``power`` loss, or a killed ``process``.
    """

    data: Path = Path("tactful-data")
    models: Path = Path()
    reports: Path = Path("reports")
    durability: Literal["power", "process"] = "power"


@dataclass(frozen=True)
class LimitSettings:
    """What a request may weigh.

    Attributes:
        body_bytes: largest body.
        batch: most events, items or users in one request.
        future_ms: how far ahead of the server's clock an event may be.
        pending_bytes: bytes waiting for the disk before new ones get 429.
        engine_lag: log records the engine may be behind before new events get 429.
    """

    body_bytes: Annotated[int, Meta(ge=1024)] = 4 * 1024 * 1024
    batch: PositiveInt = 1_000
    future_ms: Annotated[int, Meta(ge=0)] = 300_000
    pending_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024 * 1024
    engine_lag: PositiveInt = 200_000


@dataclass(frozen=True)
class EngineSettings:
    """How the feature engine works.

    Attributes:
        features: feature definitions; empty means the ones that come with the package.
        dedupe_days: how long event ids are remembered.
        batch_ms: how long the engine may hold readers up while it applies one micro-batch.
        commit_records: commit after so many records …
        commit_ms: … or after so long, whichever is first.
    """

    features: Path = Path()
    dedupe_days: Annotated[int, Meta(ge=1, le=365)] = 7
    batch_ms: PositiveFloat = 2.0
    commit_records: PositiveInt = 32_000
    commit_ms: PositiveInt = 1_000


@dataclass(frozen=True)
class StatisticsSettings:
    """Which private statistics are published.

    Attributes:
        definitions: ``statistics.yaml``; empty means none.
        clock: what closes panes: the ``wall`` clock, or a ``replay`` that sends its own time.
    """

    definitions: Path = Path()
    clock: Literal["wall", "replay"] = "wall"


@dataclass(frozen=True)
class LoggingSettings:
    """What is logged.

    Attributes:
        level: least severe level that is logged.
        format: ``text`` for people or ``json``, one object a line.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


@dataclass(frozen=True)
class Settings:
    """All settings. Made by `load_settings`, or directly in tests."""

    server: ServerSettings = field(default_factory=ServerSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    statistics: StatisticsSettings = field(default_factory=StatisticsSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)

    @property
    def models(self) -> Path:
        """Directory of models and recall indexes."""
        chosen = self.storage.models
        return self.storage.data / "models" if chosen == Path() else chosen

    @property
    def features(self) -> Path:
        """File of the feature definitions."""
        chosen = self.engine.features
        return Path(__file__).with_name("features.yaml") if chosen == Path() else chosen

    def __post_init__(self) -> None:
        """Refuse what only shows when several settings are seen together."""
        if self.server.dev and not is_loopback(self.server.host):
            raise ConfigError(
                f"server.dev switches API keys off and is refused on {self.server.host!r}: "
                "listen on 127.0.0.1, or leave --dev away and make keys with `tactful keys create`"
            )
        if self.limits.pending_bytes < self.limits.body_bytes:
            raise ConfigError(
                f"limits.pending_bytes ({self.limits.pending_bytes}) must not be smaller than "
                f"limits.body_bytes ({self.limits.body_bytes}): the largest body would never fit"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than ``localhost`` counts as not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_settings(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings.

    Args:
        path: the file; None reads ``tactful.toml`` of the working directory if there is one.
        environ: environment variables; None means those of the process.
        overrides: ``section.key`` to value, e.g. from the command line; None values are skipped.

    Returns:
        The checked settings.

    Raises:
        ConfigError: naming the file or variable and the key, with a suggestion for a misspelt one.
    """
    environ = os.environ if environ is None else environ
    values: dict[tuple[str, str], Any] = {}
    if path is None and Path("tactful.toml").is_file():
        path = Path("tactful.toml")
    if path is not None:
        values.update(_from_file(path))
    values.update(_from_environment(environ))
    for name, value in (overrides or {}).items():
        if value is not None:
            section, _, key = name.partition(".")
            values[section, key] = _convert(section, key, value, f"option {name}", strict=True)

    chosen: dict[str, Any] = {}
    for section, kind in _sections().items():
        own = {key: value for (owner, key), value in values.items() if owner == section}
        chosen[section] = kind(**own)
    return Settings(**chosen)


def _from_file(path: Path) -> dict[tuple[str, str], Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    values: dict[tuple[str, str], Any] = {}
    for section, content in document.items():
        _known(section, _sections(), f"{path}: [{section}]")
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: {section} must be a section, written as [{section}]")
        for key, value in content.items():
            where = f"{path}: {section}.{key}"
            found = _convert(section, key, value, where, strict=True)
            if isinstance(found, Path) and found != Path():
                found = path.parent / found
            values[section, key] = found
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[tuple[str, str], Any]:
    values: dict[tuple[str, str], Any] = {}
    for name in sorted(environ):
        section, separator, key = name.removeprefix(_PREFIX).lower().partition("__")
        if name.startswith(_PREFIX) and separator:
            _known(section, _sections(), name)
            values[section, key] = _convert(section, key, environ[name], name, strict=False)
    return values


def _convert(section: str, key: str, value: Any, where: str, *, strict: bool) -> Any:
    """Check one value against the type of its setting; text is parsed when not `strict`."""
    _known(section, _sections(), where)
    kinds = typing.get_type_hints(_sections()[section], include_extras=True)
    _known(key, kinds, where)
    kind = kinds[key]
    if kind is Path:
        if not isinstance(value, (str, Path)):
            raise ConfigError(f"{where}: must be a path, got {value!r}")
        return Path(value).expanduser()
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        said = str(error).replace("`", "")
        raise ConfigError(f"{where} = {value!r}: {said[:1].lower()}{said[1:]}") from error


def _sections() -> dict[str, Any]:
    kinds = typing.get_type_hints(Settings)
    return {section.name: kinds[section.name] for section in dataclasses.fields(Settings)}


def _known(name: str, names: Mapping[str, Any], where: str) -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(names))}"
    raise ConfigError(f"{where}: there is no setting {name!r}; {hint}")
