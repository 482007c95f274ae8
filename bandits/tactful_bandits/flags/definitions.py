"""Flags as they are defined: variants, rules, experiments, prerequisites and holdouts.

`load_flags` reads them from YAML, `compile_features` makes the published format from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, get_args

from tactful_bandits.assignment.assign import Experiment
from tactful_bandits.assignment.conditions import Condition, Groups
from tactful_bandits.assignment.eligibility import Holdout, require_name, require_share
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags.draws import DEFAULT_ATTRIBUTE
from tactful_bandits.flags.features import Features

Kind = Literal["boolean", "text", "number", "json"]
"""Type of all values of a flag."""

ON_OFF: Mapping[str, Any] = {"on": True, "off": False}
"""Variants of a boolean flag that names none."""

_LARGEST = 2**53


@dataclass(frozen=True, slots=True)
class FlagExperiment:
    """Experiment that a rule runs; each arm serves a variant of the flag.

    Attributes:
        design: Key, arms with weights, coverage, seed, namespace and condition.
        variants: Name of the variant of each arm, by the arm's name.
        unit: Attribute that identifies the unit.
        fallback_unit: Attribute that replaces it where it is missing, with sticky arms only.
        sticky: Whether a unit keeps the arm that it had before.
        version: Version of the sticky arms; a new one draws again.
        oldest_version: Units with a sticky arm of an older version are excluded.
    """

    design: Experiment
    variants: Mapping[str, str] = field(hash=False)
    unit: str = DEFAULT_ATTRIBUTE
    fallback_unit: str | None = None
    sticky: bool = False
    version: int = 0
    oldest_version: int = 0

    def __post_init__(self) -> None:
        """Check the units and the versions."""
        where = f"experiment {self.design.key!r}"
        require_attribute(f"{where}: unit", self.unit)
        if self.fallback_unit is not None:
            require_attribute(f"{where}: fallback_unit", self.fallback_unit)
            if not self.sticky:
                raise DefinitionError(f"{where}: fallback_unit needs sticky: true")
            if self.design.namespace is not None:
                raise DefinitionError(
                    f"{where}: a namespace has slices of {self.unit!r} alone; remove fallback_unit"
                )
        for name, number in (("version", self.version), ("oldest_version", self.oldest_version)):
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 1000:
                raise DefinitionError(f"{where}: {name} must be from 0 to 1000, not {number!r}")
        if self.oldest_version > self.version:
            raise DefinitionError(f"{where}: oldest_version must not exceed version")
        if not isinstance(self.sticky, bool):
            raise DefinitionError(f"{where}: sticky must be true or false, not {self.sticky!r}")


@dataclass(frozen=True, slots=True)
class FlagPrerequisite:
    """Condition on the value of another flag: an attribute called `value`."""

    flag: str
    condition: Condition = field(hash=False)


@dataclass(frozen=True, slots=True)
class FlagRule:
    """Rule of a flag: units that fulfil the condition get a variant, or enter an experiment.

    Attributes:
        condition: Condition on the unit's attributes; empty for all.
        serve: Name of the variant, or None with an experiment.
        share: Share of the units that the variant reaches, in [0, 1].
        unit: Attribute that identifies the unit for the share.
        seed: Seed of the share; None stands for the flag's key.
        experiment: The experiment, or None.
        prerequisites: Conditions on other flags; if one fails, the next rule is tried.
    """

    condition: Condition = field(default_factory=dict, hash=False)
    serve: str | None = None
    share: float = 1.0
    unit: str = DEFAULT_ATTRIBUTE
    seed: str | None = None
    experiment: FlagExperiment | None = None
    prerequisites: tuple[FlagPrerequisite, ...] = ()

    def __post_init__(self) -> None:
        """Check that the rule either serves a variant or runs an experiment."""
        if (self.serve is None) == (self.experiment is None):
            raise DefinitionError("a rule needs either serve or experiment")
        require_share("share", self.share)
        require_attribute("unit", self.unit)
        if self.seed is not None:
            require_name("seed", self.seed)


@dataclass(frozen=True, slots=True)
class FlagHoldout:
    """Units that get the default of every flag that names the holdout."""

    holdout: Holdout
    unit: str = DEFAULT_ATTRIBUTE

    def __post_init__(self) -> None:
        """Check the unit."""
        require_attribute(f"holdout {self.holdout.name!r}: unit", self.unit)


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag: a value for each unit, by the first rule that applies.

    Attributes:
        key: Unique among flags; does not begin with ``$``.
        kind: Type of its values.
        variants: Values by name.
        default: Name of the variant that no rule replaces, and that a disabled flag has.
        rules: Rules in their order.
        enabled: Whether rules apply at all.
        prerequisites: Conditions on other flags; all must hold, or the default is served.
        holdout: Name of the holdout, or None.
        remote: Whether only the server evaluates it; a browser never gets its rules.
        owner: Team or person that answers for the flag; never compiled.
        description: Purpose; never compiled.
        expires: Day after which the flag is stale, or None.
    """

    key: str
    kind: Kind
    variants: Mapping[str, Any] = field(hash=False)
    default: str
    rules: tuple[FlagRule, ...] = ()
    enabled: bool = True
    prerequisites: tuple[FlagPrerequisite, ...] = ()
    holdout: str | None = None
    remote: bool = False
    owner: str = ""
    description: str = ""
    expires: date | None = None

    def __post_init__(self) -> None:
        """Check names and values."""
        require_name("flag key", self.key)
        if self.key.startswith("$"):
            raise DefinitionError(f"flag key {self.key!r}: keys with $ are generated; rename it")
        for name, value in self.variants.items():
            require_name("variant name", name)
            require_value(f"variant {name!r}", self.kind, value)
        for name in ("enabled", "remote"):
            if not isinstance(getattr(self, name), bool):
                raise DefinitionError(f"{name} must be true or false, not {getattr(self, name)!r}")
        for name in ("owner", "description"):
            if not isinstance(getattr(self, name), str):
                raise DefinitionError(f"{name} must be text, not {getattr(self, name)!r}; quote it")


@dataclass(frozen=True, slots=True)
class FlagSet:
    """All flags of an installation, checked against each other by `load_flags`.

    Attributes:
        flags: Flags by key.
        groups: Named lists of values.
        holdouts: Holdouts by name.
        public_attributes: Attributes whose targeted values browsers may read.
        features: The flags compiled, ready for `evaluate`.
    """

    flags: Mapping[str, Flag]
    groups: Groups = field(default_factory=dict)
    holdouts: Mapping[str, FlagHoldout] = field(default_factory=dict)
    public_attributes: frozenset[str] = frozenset()
    features: Features = field(default_factory=lambda: Features({}), compare=False, repr=False)

    @property
    def needs(self) -> dict[str, list[str]]:
        """Keys of the flags that each flag needs."""
        return {
            key: [need.flag for need in flag.prerequisites]
            + [need.flag for rule in flag.rules for need in rule.prerequisites]
            for key, flag in self.flags.items()
        }

    @property
    def experiments(self) -> dict[str, FlagExperiment]:
        """Experiments by key; one that several flags run appears once."""
        return {
            rule.experiment.design.key: rule.experiment
            for flag in self.flags.values()
            for rule in flag.rules
            if rule.experiment is not None
        }

    def stale(self, today: date) -> tuple[str, ...]:
        """Return the keys of the flags whose day has passed."""
        return tuple(
            key
            for key, flag in self.flags.items()
            if flag.expires is not None and flag.expires < today
        )


def require_attribute(label: str, name: object) -> None:
    """Check the name of an attribute: printable text, not derived (``#``), no operator."""
    require_name(label, name)
    if str(name)[0] in "#$":
        raise DefinitionError(f"{label}: names with # or $ are derived, not {name!r}; rename it")


def require_value(label: str, kind: str, value: object) -> None:
    """Check that a value has the type of its flag and can be written as JSON."""
    if kind not in get_args(Kind):
        raise DefinitionError(f"kind must be one of {', '.join(get_args(Kind))}, not {kind!r}")
    fits = {
        "boolean": isinstance(value, bool),
        "text": isinstance(value, str),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "json": True,
    }
    if not fits[kind]:
        raise DefinitionError(
            f"{label}: {value!r} is no value of kind {kind}; change the value or the kind"
        )
    require_json(label, value)


def require_json(label: str, value: object) -> None:
    """Check that a value is plain JSON that Python and JavaScript read alike."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise DefinitionError(f"{label}: key {key!r} must be text; quote it")
            require_json(label, part)
    elif isinstance(value, list | tuple):
        for part in value:
            require_json(label, part)
    elif isinstance(value, float) and not (abs(value) < float("inf")):
        raise DefinitionError(f"{label}: {value!r} is no JSON number")
    elif isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        raise DefinitionError(
            f"{label}: {value} is beyond 2**53, so JavaScript rounds it; quote it"
        )
    elif value is not None and not isinstance(value, str | int | float):
        raise DefinitionError(f"{label}: {value!r} is no JSON value; quote it")
