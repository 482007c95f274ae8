"""Read settings from `tactful.toml` and `TACTFUL_*` variables; check each value."""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tactful.config.settings import Settings
from tactful.config.tenants import FILE, check_name, tenant_names, tenant_values, tenants_directory
from tactful.errors import ConfigError

_PREFIX = "TACTFUL_"


def load_settings(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings.

    Args:
        path: the file; None: ``tactful.toml`` in the working directory, if it exists.
        environ: environment variables; None for those of the process.
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
    values.update(_overridden(overrides))
    return _assemble(values)


def load_tenant(
    settings: Settings, name: str, *, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Read the settings of a tenant of an installation; see `tactful.config.tenants`.

    `overrides` are those of `load_settings`.

    Raises:
        ConfigError: if there is no such tenant, or its file is wrong.
    """
    folder = tenants_directory(settings) / check_name(name)
    if not folder.is_dir():
        known = ", ".join(tenant_names(settings)) or "none"
        raise ConfigError(
            f"there is no tenant {name!r} (known are: {known}); `tactful tenants add {name}` makes "
            "it"
        )
    file = folder / FILE
    own = _from_file(file) if file.is_file() else {}
    values = tenant_values(settings, name, own, file)
    values.update(_overridden(overrides))
    return _assemble(values)


def _overridden(overrides: Mapping[str, Any] | None) -> dict[tuple[str, str], Any]:
    values = {}
    for name, value in (overrides or {}).items():
        if value is not None:
            section, _, key = name.partition(".")
            values[section, key] = _convert(section, key, value, f"option {name}", strict=True)
    return values


def _assemble(values: Mapping[tuple[str, str], Any]) -> Settings:
    sections: dict[str, Any] = {}
    for section, kind in _sections().items():
        own = {key: value for (owner, key), value in values.items() if owner == section}
        sections[section] = kind(**own)
    return Settings(**sections)


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
            setting = _convert(section, key, value, where, strict=True)
            if isinstance(setting, Path) and setting != Path():
                setting = path.parent / setting
            values[section, key] = setting
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[tuple[str, str], Any]:
    values: dict[tuple[str, str], Any] = {}
    for name in sorted(environ):
        section, separator, key = name.removeprefix(_PREFIX).lower().partition("__")
        if name.startswith(_PREFIX) and separator:
            _known(section, _sections(), name)
            values[section, key] = _convert(section, key, environ[name], name, strict=False)
        elif name.startswith(_PREFIX):
            _refuse_one_underscore(name)
    return values


def _refuse_one_underscore(name: str) -> None:
    """Refuse a variable such as TACTFUL_SERVER_PORT, which would have no effect."""
    words = name.removeprefix(_PREFIX).lower()
    for section, kind in _sections().items():
        key = words.removeprefix(f"{section}_")
        if key != words and key in typing.get_type_hints(kind):
            setting = f"{_PREFIX}{section}__{key}".upper()
            raise ConfigError(
                f"{name}: not read; for the setting {section}.{key} write {setting}, with two "
                "underscores"
            )


def _convert(section: str, key: str, value: Any, where: str, *, strict: bool) -> Any:
    """Check a value against the type of its setting; parse text if not `strict`."""
    _known(section, _sections(), where)
    kinds = typing.get_type_hints(_sections()[section], include_extras=True)
    _known(key, kinds, where)
    kind = kinds[key]
    if kind is Path:
        if not isinstance(value, (str, Path)):
            raise ConfigError(f"{where}: must be a path, got {value!r}")
        return Path(value).expanduser()
    try:
        if not strict and typing.get_origin(kind) is dict:
            return msgspec.json.decode(value, type=kind)  # a variable holds a table as JSON
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.DecodeError as error:  # of JSON, or of another type
        message = str(error).replace("`", "")
        if not message.startswith("JSON"):
            message = message[:1].lower() + message[1:]
        raise ConfigError(f"{where} = {value!r}: {message}") from error


def _sections() -> dict[str, Any]:
    kinds = typing.get_type_hints(Settings)
    return {section.name: kinds[section.name] for section in dataclasses.fields(Settings)}


def _known(name: str, names: Mapping[str, Any], where: str) -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(names))}"
    raise ConfigError(f"{where}: there is no setting {name!r}; {hint}")
