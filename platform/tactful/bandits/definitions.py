"""Bandits as data: arms, policy, features, rewards and bounds (`bandits.yaml`).

```yaml
- key: home-banner
  arms:
    - {name: winter, value: winter.jpg}
    - {name: spring, value: spring.jpg}
  policy: linear-thompson
  features:
    - {user: visits_364d, scale: 50}
    - {context: device, values: [phone, desktop]}
  reward: {event: click, filter: {properties.place: banner}, within_hours: 24}
  memory: {period_hours: 24, periods: 60, discount: 0.95}
  min_share: 0.05
  shadow_explore: 0.1
```

Arms with `value` are chosen by ``POST /v1/bandits/{key}/decide``. Arms with `parameters`, which are
those of an arm in `experiments.yaml`, are chosen inside ``POST /v1/recommend``.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tactful.errors import ConfigError
from tactful.rerank.arm_policy import policy_parts
from tactful_bandits.assignment.conditions import require_condition
from tactful_bandits.assignment.yaml_source import YamlSource
from tactful_bandits.errors import DefinitionError
from tactful_streaming.contract.decode_requests import CUSTOM_TYPE, EVENT_TYPES
from tactful_streaming.definitions.model import Definitions, Feature

State = Literal["shadow", "live", "off"]

_KEY = re.compile(r"\w[\w-]{0,62}")
_PLACE = re.compile(r"\.([^.\[\]`]+)|\[(\d+)\]")
_HOUR = 3_600_000
_LONGEST_GRACE_MS = 600_000
_MOST_FEATURES = 64
_Name = Annotated[str, Meta(min_length=1, max_length=64)]


class BanditArm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One arm.

    Attributes:
        name: its name, which the log keeps.
        value: any value that `decide` returns.
        parameters: parameters of a recommendation policy, as in `experiments.yaml`.
    """

    name: _Name
    value: Any | UnsetType = UNSET
    parameters: dict[str, Any] | UnsetType = UNSET


class BanditFeature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One feature of a decision, bounded between -1 and 1.

    Attributes:
        user: online feature of the user, a number; 0 without a user.
        context: field of the request's context, a number or, with `values`, a text.
        scale: number that becomes 1; larger ones become 1, too.
        values: texts that become a column each, which is 1 for this text.
    """

    user: _Name | None = None
    context: _Name | None = None
    scale: Annotated[float, Meta(ge=1e-9, le=1e12)] = 1.0
    values: Annotated[tuple[_Name, ...], Meta(max_length=32)] = ()

    @property
    def columns(self) -> int:
        """Number of columns in the vector."""
        return len(self.values) or 1


class Reward(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Event that rewards a decision: the first that fits, within a time.

    Attributes:
        event: type of the event.
        filter: condition on the event's `item_id`, `properties` and `context`.
        within_hours: time after the decision in which it counts; afterwards the reward is 0. A
            decision is learnt when it is over: give no more than most rewards need.
        value: property of the event that is the reward; empty: the reward is 1.
        cap: value that becomes a reward of 1; larger ones become 1, too.
    """

    event: _Name
    filter: dict[str, Any] = {}
    within_hours: Annotated[float, Meta(ge=0.001, le=2_160)] = 1.0
    value: str = ""
    cap: Annotated[float, Meta(ge=1e-9, le=1e12)] = 1.0

    @property
    def lasts(self) -> int:
        """Time after a decision in which it is rewarded, milliseconds."""
        return int(self.within_hours * _HOUR)

    @property
    def grace(self) -> int:
        """Further time in which a reward of that time may reach the log, milliseconds."""
        return min(self.lasts // 4, _LONGEST_GRACE_MS)


class BanditMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Memory of a bandit, by periods.

    Attributes:
        period_hours: length of a period.
        periods: number of periods that count; older decisions are deleted from the policy.
        discount: weight of a period relative to the next younger one.
    """

    period_hours: Annotated[float, Meta(ge=0.01, le=8_760)] = 24.0
    periods: Annotated[int, Meta(ge=1, le=1_000)] = 90
    discount: Annotated[float, Meta(gt=0, le=1)] = 1.0

    @property
    def period_ms(self) -> int:
        """Length of a period, milliseconds."""
        return int(self.period_hours * _HOUR)


class BanditDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bandit.

    Attributes:
        key: its name.
        arms: at least two; either all have a `value`, or all have `parameters`.
        reward: event that rewards a decision.
        policy: `beta-thompson` needs no features; `linear-thompson` and `linucb` may have some.
        features: features of a decision; a constant is added.
        default: arm that serves in shadow, without consent and for control groups; absent: the
            first.
        memory: periods that count.
        min_share: least probability of every arm; 0: arms that the policy gives up are never shown
            again, and cannot be evaluated.
        shadow_explore: share of the decisions in shadow that get an arm by chance, without which a
            shadow cannot be evaluated.
        width: of `linucb`, and of `linear-thompson` the scale of its draws.
        draws: draws of a decision by `linear-thompson`; more make its probabilities smoother.
        state: `shadow`, `live` or `off` at the first application; later `tactful bandit apply` and
            `stop` change it.
    """

    key: str
    arms: Annotated[tuple[BanditArm, ...], Meta(min_length=2, max_length=100)]
    reward: Reward
    policy: Literal["beta-thompson", "linear-thompson", "linucb"] = "beta-thompson"
    features: Annotated[tuple[BanditFeature, ...], Meta(max_length=32)] = ()
    default: str = ""
    memory: BanditMemory = BanditMemory()
    min_share: Annotated[float, Meta(ge=0, le=0.5)] = 0.005
    shadow_explore: Annotated[float, Meta(ge=0, le=1)] = 0.0
    width: Annotated[float, Meta(ge=0, le=100)] = 0.3
    draws: Annotated[int, Meta(ge=1, le=1_024)] = 32
    state: State = "shadow"

    @property
    def names(self) -> list[str]:
        """Names of the arms, in order."""
        return [arm.name for arm in self.arms]

    @property
    def default_index(self) -> int:
        """Index of the default arm."""
        return self.names.index(self.default) if self.default else 0

    @property
    def recommends(self) -> bool:
        """Whether its arms are recommendation policies."""
        return self.arms[0].parameters is not UNSET

    @property
    def explore(self) -> float:
        """Share of the decisions in service that take any arm, so that each has `min_share`."""
        return min(1.0, self.min_share * len(self.arms))

    @property
    def columns(self) -> int:
        """Length of a feature vector, with its constant; 0 without a linear policy."""
        if self.policy == "beta-thompson":
            return 0
        return 1 + sum(feature.columns for feature in self.features)

    @property
    def layout(self) -> str:
        """Fingerprint of the features, which is logged with each vector of them."""
        return hashlib.blake2b(msgspec.json.encode(self.features), digest_size=4).hexdigest()

    def parts(self) -> list[dict[str, Any]]:
        """Return the replaced attributes of a recommendation policy, by arm; ConfigError if wrong.

        Arms of values replace nothing.
        """
        return [
            {}
            if arm.parameters is UNSET or not arm.parameters
            else policy_parts(arm.parameters, where=f"parameters of arm {arm.name!r}")
            for arm in self.arms
        ]

    def learns_as(self, other: BanditDefinition) -> bool:
        """Return whether another definition learns the same from the same log."""
        return _learnt(self) == _learnt(other)


def _learnt(definition: BanditDefinition) -> BanditDefinition:
    """Return a definition without the fields that learning does not depend on."""
    arms = tuple(BanditArm(name=arm.name) for arm in definition.arms)
    return msgspec.structs.replace(
        definition,
        arms=arms,
        default="",
        state="shadow",
        min_share=0.0,
        shadow_explore=0.0,
        width=0.0,
        draws=1,
    )


def check_definition(definition: BanditDefinition) -> None:
    """Raise a `_Problem` with the place of the first contradiction of a definition."""
    if not _KEY.fullmatch(definition.key):
        raise _Problem(("key",), "a key has letters, digits, '-' and '_', at most 63")
    _check_arms(definition)
    _check_features(definition)
    _check_memory(definition)
    reward = definition.reward
    if reward.event not in EVENT_TYPES and not re.fullmatch(CUSTOM_TYPE, reward.event):
        raise _Problem(
            ("reward", "event"),
            f"no event has the type {reward.event!r}: give one of {', '.join(sorted(EVENT_TYPES))} "
            "or x.<custom> (lower-case letters, digits, . _ -)",
        )
    if reward.filter:
        try:
            require_condition("filter", reward.filter)
        except DefinitionError as error:
            raise _Problem(("reward", "filter"), str(error)) from error
    if reward.value and definition.policy == "beta-thompson":
        raise _Problem(
            ("reward", "value"),
            "beta-thompson learns rewards of 0 and 1: leave value out, or choose linear-thompson",
        )


def _check_memory(definition: BanditDefinition) -> None:
    """Raise a `_Problem` if decisions could leave the memory before their reward is known."""
    memory, reward = definition.memory, definition.reward
    least = 1 + math.ceil((reward.lasts + reward.grace) / memory.period_ms)
    if memory.periods < least:
        raise _Problem(
            ("memory",),
            f"a decision is learnt when {reward.within_hours:g} hours for its reward are over, and "
            f"{memory.periods} periods of {memory.period_hours:g} hours may have passed by then: "
            f"give at least {least} periods, or longer ones",
        )


def _check_arms(definition: BanditDefinition) -> None:
    names = definition.names
    for index, arm in enumerate(definition.arms):
        if names.count(arm.name) > 1:
            raise _Problem(("arms", index, "name"), f"arm {arm.name!r} is written twice: rename it")
        if (arm.value is UNSET) == (arm.parameters is UNSET):
            raise _Problem(
                ("arms", index), "give `value` (any value), or `parameters` (of a recommendation)"
            )
        if (arm.parameters is UNSET) == definition.recommends:
            raise _Problem(
                ("arms", index), "the arms of a bandit have all `value`, or all `parameters`"
            )
    if definition.default and definition.default not in names:
        raise _Problem(("default",), f"there is no such arm; there are {', '.join(names)}")
    if definition.min_share * len(names) > 1:
        raise _Problem(
            ("min_share",),
            f"{len(names)} arms of at least {definition.min_share:g} are more than 1 together: "
            f"give at most {1 / len(names):.3g}",
        )
    try:
        definition.parts()
    except ConfigError as error:
        raise _Problem(("arms",), str(error)) from error


def _check_features(definition: BanditDefinition) -> None:
    for index, feature in enumerate(definition.features):
        place = ("features", index)
        if (feature.user is None) == (feature.context is None):
            raise _Problem(place, "give `user` (an online feature), or `context` (of the request)")
        if feature.values and feature.context is None:
            raise _Problem((*place, "values"), "only a field of the context has texts as values")
        if len({*feature.values}) < len(feature.values):
            raise _Problem((*place, "values"), "a text is written twice")
    if definition.features and definition.policy == "beta-thompson":
        raise _Problem(
            ("features",),
            "beta-thompson has no features: choose linear-thompson or linucb, or leave them out",
        )
    if definition.columns > _MOST_FEATURES:
        raise _Problem(
            ("features",),
            f"{definition.columns} columns are more than {_MOST_FEATURES}: leave some values out",
        )


def load_bandits(
    path: Path,
    *,
    features: Sequence[str] | None = None,
    check: Callable[[BanditDefinition], None] = lambda definition: None,
) -> list[BanditDefinition]:
    """Read the bandits of a YAML file.

    Args:
        path: the file.
        features: names of the ungrouped online features of users; None checks no names.
        check: raises ConfigError for a bandit that cannot be used for another reason.

    Raises:
        ConfigError: if it cannot be read or is wrong; the message names file, line and key.
    """
    try:
        source = YamlSource.read(path, str(path))
    except (OSError, DefinitionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    data = source.data
    if data is None:
        return []
    if not isinstance(data, list):
        raise ConfigError(f"{path}: must be a list of bandits: begin it with `- key: NAME`")
    bandits: list[BanditDefinition] = []
    for number, entry in enumerate(data):
        try:
            bandits.append(read_bandit(entry, features=features))
            _check_together(bandits)
            check(bandits[-1])
        except ConfigError as error:
            problem = error if isinstance(error, _Problem) else _Problem((), str(error))
            raise ConfigError(_located(path, source.lines, number, entry, problem)) from None
    return bandits


def read_bandit(plain: object, *, features: Sequence[str] | None = None) -> BanditDefinition:
    """Read and check one definition; raise ConfigError with the place in it."""
    try:
        definition = msgspec.convert(plain, BanditDefinition)
    except (msgspec.ValidationError, UnicodeError) as error:
        message, _, place = str(error).partition(" - at `$")
        steps = [name or int(index) for name, index in _PLACE.findall(place)]
        raise _Problem(tuple(steps), message) from error
    check_definition(definition)
    if features is not None:
        require_known(definition, features)
    return definition


def require_known(definition: BanditDefinition, features: Sequence[str]) -> None:
    """Raise ConfigError if a definition needs an online feature that does not exist."""
    for index, feature in enumerate(definition.features):
        if feature.user is not None and feature.user not in features:
            raise _Problem(
                ("features", index, "user"),
                f"users have no number {feature.user!r}; there are {', '.join(sorted(features))}",
            )


def numbers_of(definitions: Definitions) -> list[str]:
    """Return the names of the features of users that are one number."""
    return [
        feature.name
        for feature in definitions.of_entity("user")
        if isinstance(feature, Feature)
        and feature.group_by is None
        and feature.aggregate not in ("last_n", "top_k")
    ]


def _check_together(bandits: Sequence[BanditDefinition]) -> None:
    newest = bandits[-1]
    if newest.key in (bandit.key for bandit in bandits[:-1]):
        raise _Problem(("key",), "is written twice: give each bandit a key of its own")


class _Problem(ConfigError):
    """A contradiction in a definition, with its place."""

    def __init__(self, place: tuple[str | int, ...], message: str) -> None:
        """Keep the place, such as ``("arms", 1, "name")``."""
        self.place, self.message = place, message
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
        super().__init__(": ".join(filter(None, (path.removeprefix("."), message))))


def _located(
    path: Path,
    lines: Mapping[tuple[str | int, ...], int],
    number: int,
    entry: object,
    problem: _Problem,
) -> str:
    whole: tuple[str | int, ...] = (number, *problem.place)
    enclosing = (whole[:depth] for depth in range(len(whole), 0, -1))
    line = next((lines[part] for part in enclosing if part in lines), 1)
    key = entry.get("key") if isinstance(entry, dict) else None
    named = f"bandit {key!r}" if isinstance(key, str) else f"bandit number {number + 1}"
    return f"{path}:{line}: {named}: {problem}"
