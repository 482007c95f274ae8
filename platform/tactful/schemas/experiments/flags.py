"""Flags: values for a unit, signed payloads, states, history, and changes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tactful.schemas.fields import Identifier, Scalar

MOST_FLAGS = 1_000
FlagKey = Annotated[str, Meta(min_length=1, max_length=128)]
Reason = Annotated[str, Meta(max_length=1_000)]
_Attribute = Scalar | list[Scalar]
_Attributes = Annotated[dict[Identifier, _Attribute], Meta(max_length=64)]
_Token = Annotated[str, Meta(max_length=64)]


class AssignRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A request for the values of flags for one unit.

    Without `user_id` and `device_id` no experiment and no share of users applies.

    Attributes:
        user_id: user; `id` and `user_id` of conditions.
        device_id: first-party device id, where the user is not known; `id` and `device_id` of
            conditions.
        attributes: other attributes for conditions, such as country or plan.
        flags: keys of the flags to evaluate; all, if not given.
        context: `consent` claims purposes, as in events.
        token: token that an earlier answer returned for this device.
        log: whether exposures are logged; false to look only.
    """

    user_id: Identifier | None = None
    device_id: Identifier | None = None
    attributes: _Attributes = {}
    flags: Annotated[list[FlagKey], Meta(max_length=MOST_FLAGS)] = []
    context: Annotated[dict[Identifier, Scalar], Meta(max_length=64)] = {}
    token: _Token | None = None
    log: bool = True

    @property
    def subject(self) -> str | None:
        """Key of the unit: the user id, else ``device:<device_id>``; None without both."""
        if self.user_id is not None:
            return self.user_id
        return None if self.device_id is None else f"device:{self.device_id}"


class AssignedFlag(msgspec.Struct, kw_only=True, frozen=True):
    """The value of a flag for a unit.

    Attributes:
        value: the value.
        source: `default`, `force` (a rule that applies), `experiment`, `prerequisite`, `off`
            (killed), `unknown` (no flag has this key), `cyclic` or `remote`.
        rule: id of the rule that gave the value; null for none.
        experiment: key of the experiment, if the unit is in it.
        arm: key of its arm.
        reason: the reason in words.
    """

    value: Any
    source: str
    rule: str | None = None
    experiment: str | None = None
    arm: str | None = None
    reason: str = ""


class Assignment(msgspec.Struct, kw_only=True, frozen=True):
    """The values of flags for one unit.

    Attributes:
        version: version of the flags; 0 while none were applied.
        flags: value by key.
        verified: whether the exposures count in decisions. A device without a token counts as new,
            and new devices of one address are limited.
        token: proves to later requests and exposures that the server knows the device; keep it.
            Null for users and for devices beyond the limit.
        consented: whether the unit may take part in experiments; without it no experiment and no
            share of users applies.
    """

    version: int
    flags: dict[str, AssignedFlag]
    verified: bool = False
    token: str | None = None
    consented: bool = True


class UnitTokenRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A request for the token of a device that evaluates flags itself.

    Attributes:
        device_id: first-party device id.
        token: the token of the device so far, to be renewed.
    """

    device_id: Identifier
    token: _Token | None = None


class UnitToken(msgspec.Struct, kw_only=True, frozen=True):
    """The token of a device.

    Attributes:
        token: send it as `properties.token` of `exposure` events.
        expires_at: end of its validity, epoch milliseconds.
    """

    token: str
    expires_at: int


class SignedPayload(msgspec.Struct, kw_only=True, frozen=True):
    """The flags for local evaluation, signed.

    Attributes:
        payload: JSON text with `version`, `generated_ms`, `hashed`, `features` and `savedGroups`.
        signature: Ed25519 signature of the UTF-8 bytes of `payload`, in base64.
        key_id: id of the signing key.
    """

    payload: str
    signature: str
    key_id: str


class FlagSigningKey(msgspec.Struct, kw_only=True, frozen=True):
    """The public key of signed payloads.

    Attributes:
        key_id: first 16 hexadecimal digits of the SHA-256 of the key.
        algorithm: `Ed25519`.
        public_key: 32 bytes in base64.
    """

    key_id: str
    algorithm: str
    public_key: str


class FlagKill(msgspec.Struct, kw_only=True, frozen=True):
    """A killed flag: every unit gets its default value.

    Attributes:
        at: time, epoch milliseconds.
        by: the caller.
        reason: the reason given.
    """

    at: int
    by: str
    reason: str


class FlagDifference(msgspec.Struct, kw_only=True, frozen=True):
    """A flag that a version changed.

    Attributes:
        flag: its key.
        change: `added`, `removed`, `changed`, `killed` or `revived`.
        lines: differences, such as `rules[0].share: 0.1 → 0.5`.
    """

    flag: str
    change: Literal["added", "removed", "changed", "killed", "revived"]
    lines: list[str] = []


class FlagInfo(msgspec.Struct, kw_only=True, frozen=True):
    """The state of a flag.

    Attributes:
        key: its key.
        kind: type of its values: `boolean`, `text`, `number` or `json`.
        description: its description.
        state: `on`, or `killed`: every unit gets the default value.
        default: the default value.
        rules: number of rules.
        experiments: keys of its experiments.
        remote: whether browsers must request its value from the server, since its rules contain
            conditions that cannot be hashed.
        changed_at: time of the version that changed it last, epoch milliseconds.
        expires: last day that its definition gives, YYYY-MM-DD; null for none.
        stale: reasons to remove it: `expired`, `not evaluated`, `one value`; empty for none.
    """

    key: str
    kind: str
    description: str
    state: Literal["on", "killed"]
    default: Any
    rules: int
    experiments: list[str]
    remote: bool
    changed_at: int
    expires: str | None = None
    stale: list[str] = []


class FlagIndex(msgspec.Struct, kw_only=True, frozen=True):
    """A page of the flags, by key.

    Attributes:
        version: version of the flags; 0 while none were applied.
        applied_at: time of the version, epoch milliseconds; null without one.
        flags: the flags.
        next_cursor: cursor of the next page; null on the last one.
    """

    version: int
    applied_at: int | None
    flags: list[FlagInfo]
    next_cursor: str | None = None


class FlagRule(msgspec.Struct, kw_only=True, frozen=True):
    """A rule of a flag, in the order of evaluation.

    Attributes:
        id: its id.
        words: units that get it, and its values, in words.
        rule: the compiled rule, in the format of GrowthBook.
    """

    id: str
    words: str
    rule: dict[str, Any]


class FlagChange(msgspec.Struct, kw_only=True, frozen=True):
    """A version that changed a flag.

    Attributes:
        version: its number.
        at: time, epoch milliseconds.
        by: the caller.
        action: `apply`, `kill` or `revive`.
        reason: the reason given.
        change: `added`, `removed`, `changed`, `killed` or `revived`.
        lines: the differences.
    """

    version: int
    at: int
    by: str
    action: str
    reason: str
    change: str
    lines: list[str]


class FlagDetails(msgspec.Struct, kw_only=True, frozen=True):
    """A flag with its rules and its history.

    Attributes:
        flag: its state.
        owner: its owner; empty for none.
        rules: its rules, in the order of evaluation.
        definition: the compiled feature, in the format of GrowthBook.
        killed: the kill; null while it is on.
        evaluated_at: latest evaluation by the server, epoch milliseconds, to a minute; null for
            none. Evaluations of clients are not known.
        history: versions that changed it, newest first, at most 100.
    """

    flag: FlagInfo
    owner: str
    rules: list[FlagRule]
    definition: dict[str, Any]
    killed: FlagKill | None
    evaluated_at: int | None
    history: list[FlagChange]


class FlagWhyStep(msgspec.Struct, kw_only=True, frozen=True):
    """A rule that was tried for a unit.

    Attributes:
        rule: its id.
        applies: whether it gave the value.
        why: the reason in words.
    """

    rule: str
    applies: bool
    why: str


class FlagWhy(msgspec.Struct, kw_only=True, frozen=True):
    """The value of a flag for one unit, with the reasons.

    Attributes:
        flag: key of the flag.
        unit: the unit.
        version: version of the flags.
        result: the value.
        consented: whether the unit may take part in experiments.
        sticky: arms that the unit keeps, by experiment.
        steps: rules in their order, up to the one that gave the value.
    """

    flag: str
    unit: str
    version: int
    result: AssignedFlag
    consented: bool
    sticky: dict[str, str]
    steps: list[FlagWhyStep]


class FlagsFile(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Definitions of all flags, to be applied.

    Attributes:
        definitions: text of a file such as `flags.yaml`; flags that it does not define are removed.
        name: name of the file, for messages.
        reason: reason for the change, for the audit trail.
        check: whether to report the differences without applying them.
    """

    definitions: Annotated[str, Meta(max_length=2_000_000)]
    name: Annotated[str, Meta(min_length=1, max_length=255)] = "flags.yaml"
    reason: Reason = ""
    check: bool = False


class FlagsApplied(msgspec.Struct, kw_only=True, frozen=True):
    """Result of applying definitions.

    Attributes:
        version: version of the flags now; the one before, if nothing changed or only checked.
        changed: whether a version was added, or would be.
        differences: the changed flags.
    """

    version: int
    changed: bool
    differences: list[FlagDifference]


class FlagStep(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A kill or a revival.

    Attributes:
        reason: the reason, for the audit trail.
    """

    reason: Annotated[str, Meta(min_length=1, max_length=1_000)]
