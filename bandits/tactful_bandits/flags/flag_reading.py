"""One flag read from plain data: variants by name, prerequisites, rules, experiments."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_bandits.assignment.eligibility import Namespace
from tactful_bandits.assignment.hashing import equal_weights
from tactful_bandits.assignment.yaml_source import Place, YamlSource
from tactful_bandits.flags.definitions import (
    Flag,
    FlagExperiment,
    FlagHoldout,
    FlagPrerequisite,
    FlagRule,
)
from tactful_bandits.flags.targeting import read_condition

_FLAG = (
    "kind",
    "variants",
    "default",
    "rules",
    "enabled",
    "prerequisites",
    "holdout",
    "remote",
    "owner",
    "description",
    "expires",
)
_RULE = ("when", "serve", "share", "unit", "seed", "experiment", "prerequisites", "description")
_DESIGN = ("coverage", "seed", "namespace", "status")
_STICKY = ("unit", "fallback_unit", "sticky", "version", "oldest_version")


class FlagReader:
    """Converts plain data into flags; errors name the line of the field."""

    def __init__(
        self,
        source: YamlSource,
        groups: Mapping[str, object],
        holdouts: Mapping[str, FlagHoldout],
        variants: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Keep the lines, and the known groups, holdouts and variants of every flag."""
        self._source = source
        self._groups = groups
        self._holdouts = holdouts
        self._variants = variants

    def flag(self, place: Place, key: str, data: object) -> Flag:
        """Read the flag `key`.

        Raises:
            DefinitionError: A field is wrong; the message names its place.
        """
        fields = self._source.mapping(place, data, ("default",), _FLAG)
        fields.setdefault("kind", "boolean")
        fields["variants"] = self._variants[key]
        fields["default"] = self._variant((*place, "default"), key, fields["default"])
        fields["expires"] = self._day((*place, "expires"), fields.get("expires"))
        holdout = fields.get("holdout")
        known_name = isinstance(holdout, str) and holdout in self._holdouts
        if holdout is not None and not known_name:
            known = ", ".join(self._holdouts) or "none"
            problem = f"there is no holdout {holdout!r}; holdouts are: {known}"
            raise self._source.error((*place, "holdout"), problem)
        fields["prerequisites"] = self._prerequisites(place, fields)
        rules = self._source.list((*place, "rules"), fields.get("rules") or (), "a list of rules")
        fields["rules"] = tuple(
            self._rule((*place, "rules", i), key, entry) for i, entry in enumerate(rules)
        )
        return self._source.build(place, Flag, {"key": key, **fields})

    def _variant(self, place: Place, key: str, data: object) -> str:
        """Return the name of a variant of a flag; YAML reads `on` and `off` as booleans."""
        name = {True: "on", False: "off"}[data] if isinstance(data, bool) else data
        if isinstance(name, int):
            name = str(name)
        if isinstance(name, str) and name in self._variants[key]:
            return name
        known = ", ".join(self._variants[key])
        problem = f"flag {key!r} has no variant {data!r}; its variants are: {known}"
        if isinstance(data, bool):
            problem += " (yes, no, true and false are booleans in YAML: quote them)"
        elif not isinstance(data, str):
            problem += " (names are texts: quote them)"
        raise self._source.error(place, problem)

    def _day(self, place: Place, data: object) -> date | None:
        if isinstance(data, str):
            try:
                return date.fromisoformat(data)
            except ValueError:
                pass
        elif data is None or (isinstance(data, date) and not isinstance(data, datetime)):
            return data
        raise self._source.error(place, f"expected a day such as 2027-06-30, not {data!r}")

    def _condition(self, place: Place, data: object) -> Mapping[str, Any]:
        return self._source.check(place, read_condition, "when", data, self._groups)

    def _prerequisites(
        self, place: Place, fields: Mapping[str, object]
    ) -> tuple[FlagPrerequisite, ...]:
        where = (*place, "prerequisites")
        data = fields.get("prerequisites") or ()
        entries = self._source.list(where, data, "a list of prerequisites")
        return tuple(self._prerequisite((*where, i), entry) for i, entry in enumerate(entries))

    def _prerequisite(self, place: Place, data: object) -> FlagPrerequisite:
        fields = self._source.mapping(place, data, ("flag",), ("variants", "when"))
        needed = fields["flag"]
        if not isinstance(needed, str) or needed not in self._variants:
            problem = f"there is no flag {needed!r}; define it or remove the prerequisite"
            raise self._source.error((*place, "flag"), problem)
        if ("variants" in fields) == ("when" in fields):
            raise self._source.error(place, "give either variants or when")
        if "when" in fields:
            return FlagPrerequisite(needed, self._condition((*place, "when"), fields["when"]))
        where = (*place, "variants")
        names = self._source.list(where, fields["variants"], "a list of variants")
        values = [
            self._variants[needed][self._variant((*where, i), needed, name)]
            for i, name in enumerate(names)
        ]
        if not values or any(isinstance(value, list | Mapping) for value in values):
            raise self._source.error(
                where, "name at least one variant that is no list or mapping, or use when"
            )
        return FlagPrerequisite(needed, {"value": {"$in": values}})

    def _rule(self, place: Place, key: str, data: object) -> FlagRule:
        fields = self._source.mapping(place, data, (), _RULE)
        fields.pop("description", None)  # for readers of the file
        condition = self._condition((*place, "when"), fields.pop("when", None) or {})
        if "serve" in fields:
            fields["serve"] = self._variant((*place, "serve"), key, fields["serve"])
        if fields.get("experiment") is not None:
            extra = sorted({"serve", "share", "unit", "seed"} & set(fields))
            if extra:
                problem = f"{extra[0]} does not go with experiment; write it inside, or remove it"
                raise self._source.error((*place, extra[0]), problem)
            fields["experiment"] = self._experiment(
                (*place, "experiment"), key, fields["experiment"], condition
            )
        fields["prerequisites"] = self._prerequisites(place, fields)
        return self._source.build(place, FlagRule, {"condition": condition, **fields})

    def _experiment(
        self, place: Place, key: str, data: object, condition: Mapping[str, Any]
    ) -> FlagExperiment:
        fields = self._source.mapping(place, data, ("key", "arms"), (*_DESIGN, *_STICKY))
        arms, variants = self._arms((*place, "arms"), key, fields["arms"])
        design = {name: fields[name] for name in ("key", *_DESIGN) if name in fields}
        if design.get("namespace") is not None:
            where = (*place, "namespace")
            slice_ = self._source.mapping(where, design["namespace"], ("name", "start", "end"), ())
            design["namespace"] = self._source.build(where, Namespace, slice_)
        experiment = self._source.build(
            place, Experiment, {**design, "arms": arms, "condition": condition}
        )
        rest = {name: fields[name] for name in _STICKY if name in fields}
        return self._source.build(
            place, FlagExperiment, {"design": experiment, "variants": variants, **rest}
        )

    def _arms(
        self, place: Place, key: str, data: object
    ) -> tuple[tuple[Arm, ...], Mapping[str, str]]:
        """Return the arms and the variant of each; an arm is called like its variant."""
        entries = self._source.list(place, data, "a list of arms")
        weights = self._weights(place, entries)
        arms, variants = [], {}
        for i, (entry, weight) in enumerate(zip(entries, weights, strict=True)):
            if not isinstance(entry, Mapping):
                entry = {"variant": entry}
            fields = self._source.mapping((*place, i), entry, ("variant",), ("name", "weight"))
            variant = self._variant((*place, i), key, fields["variant"])
            arm = {"name": fields.get("name", variant), "weight": weight}
            arms.append(self._source.build((*place, i), Arm, arm))
            variants[arms[-1].name] = variant
        return tuple(arms), variants

    def _weights(self, place: Place, entries: Sequence[object]) -> Sequence[object]:
        given = [
            entry["weight"] for entry in entries if isinstance(entry, Mapping) and "weight" in entry
        ]
        if not given:
            return equal_weights(len(entries))
        if len(given) < len(entries):
            raise self._source.error(place, "give every arm a weight, or none for equal weights")
        return given
