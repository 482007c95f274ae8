"""Identity resolution from the settings."""

from __future__ import annotations

from tactful.config.engine import IdentitySettings
from tactful.errors import ConfigError
from tactful_streaming.contract.decode_requests import EVENT_TYPES
from tactful_streaming.errors import EngineError
from tactful_streaming.identity.resolver import Identity

_DAY_MS = 86_400_000
_CUSTOM = "x."


def identity_of(settings: IdentitySettings) -> Identity | None:
    """Return the identity rules of every engine; None if nothing is linked.

    Raises:
        ConfigError: if a type of event is unknown, or both begins and ends links.
    """
    if not settings.enabled:
        return None
    try:
        return Identity(
            logins=_types("logins", settings.logins),
            logouts=_types("logouts", settings.logouts),
            ttl_ms=round(settings.link_days * _DAY_MS),
            devices_per_user=settings.devices_per_user,
            consent_required=settings.consent == "required",
        )
    except EngineError as error:
        raise ConfigError(str(error)) from error


def _types(name: str, text: str) -> frozenset[str]:
    types = frozenset(filter(None, (part.strip() for part in text.split(","))))
    for type_ in sorted(types):
        if type_ not in EVENT_TYPES and not (
            type_.startswith(_CUSTOM) and len(type_) > len(_CUSTOM)
        ):
            raise ConfigError(
                f"identity.{name}: {type_!r} is no type of event: name one of "
                f"{', '.join(sorted(EVENT_TYPES))}, or x. and a name of your own"
            )
    return types
