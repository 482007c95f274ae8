"""One version of the flags, ready to be served: compiled, signed, and with what a request needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tactful.flags.definitions import FlagDefinitions, read_definitions
from tactful.flags.payloads import Envelope, PayloadSigner
from tactful.flags.store import FlagVersion
from tactful.schemas.experiments.flags import FlagKill
from tactful_bandits.assignment.conditions import attribute_names
from tactful_bandits.flags import Features


@dataclass(frozen=True)
class ServedFlags:
    """A version of the flags in memory."""

    number: int  # 0 while none were applied
    at: int  # time of the version, epoch milliseconds; 0 without one
    definitions: FlagDefinitions | None
    features: Features  # as the server evaluates them
    full: Envelope  # payload for servers
    public: Envelope  # payload for browsers
    killed: Mapping[str, FlagKill]
    remote: Collection[str]  # flags that browsers cannot evaluate
    kept_by: Collection[str] = field(default=())  # attributes that identify units of sticky arms
    reads: Collection[str] = field(default=())  # attributes that conditions of rules read


def serve(version: FlagVersion | None, signer: PayloadSigner, salt: str) -> ServedFlags:
    """Prepare a version, or the absence of one, or raise `ConfigError`."""
    if version is None:
        empty = signer.seal(_numbered(0, 0, {"features": {}, "savedGroups": {}}))
        return ServedFlags(0, 0, None, Features({}), empty, empty, {}, ())
    definitions = read_definitions(version.definitions, version.file)
    full = _numbered(version.version, version.at, version.payload)
    defaults = definitions.payload["features"]
    public = without_killed(definitions.public(salt), version.killed, defaults)
    features = Features.from_payload(full)
    return ServedFlags(
        number=version.version,
        at=version.at,
        definitions=definitions,
        features=features,
        full=signer.seal(full),
        public=signer.seal(_numbered(version.version, version.at, public)),
        killed=version.killed,
        remote=frozenset(
            key for key, feature in public["features"].items() if feature.get("remote")
        ),
        kept_by=_kept_by(features),
        reads=frozenset(
            name
            for feature in features.by_key.values()
            for rule in feature.rules
            for name in attribute_names(rule.condition or {})
        ),
    )


def without_killed(
    payload: Mapping[str, Any],
    killed: Collection[str],
    defaults: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return a payload in which killed flags have no rules, whatever evaluates it.

    Args:
        payload: features and saved groups.
        killed: keys of the flags.
        defaults: all compiled features; those that are remote in the payload have no default there.
    """
    features = dict(payload["features"])
    for key in killed:
        if key in features:
            default = defaults[key].get("defaultValue")
            features[key] = {"defaultValue": default, "rules": [], "off": True}
    return {**payload, "features": features}


def _numbered(number: int, at: int, payload: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": number, "generated_ms": at, **payload}


def _kept_by(features: Features) -> frozenset[str]:
    """Return the attributes that identify the units of sticky experiments."""
    draws = [
        rule.experiment.draw
        for feature in features.by_key.values()
        for rule in feature.rules
        if rule.experiment is not None and rule.experiment.keeps_arms
    ]
    names = {name for draw in draws for name in (draw.attribute, draw.fallback)}
    return frozenset(name for name in names if name is not None)
