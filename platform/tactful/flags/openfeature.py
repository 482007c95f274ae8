"""OpenFeature provider: code that reads flags through OpenFeature gets those of `LocalFlags`.

```python
api.set_provider(TactfulProvider(LocalFlags("https://tactful.example", key)))
```
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tactful.flags.local import LocalFlags, UnitFlags

try:
    from openfeature.evaluation_context import EvaluationContext
    from openfeature.event import ProviderEventDetails
    from openfeature.exception import ErrorCode
    from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
    from openfeature.provider import AbstractProvider, Metadata
except ModuleNotFoundError as error:  # pragma: no cover
    raise ModuleNotFoundError(
        "openfeature is not installed: pip install 'tactful[openfeature]'", name=error.name
    ) from error

T = TypeVar("T")
Kinds = type | tuple[type, ...]
Nested = Sequence[FlagValueType] | Mapping[str, FlagValueType]

_REASONS = {
    "default": Reason.DEFAULT,
    "force": Reason.TARGETING_MATCH,
    "experiment": Reason.SPLIT,
    "prerequisite": Reason.DISABLED,
    "off": Reason.DISABLED,
}
_UNIT = ("user_id", "device_id", "consented")


class TactfulProvider(AbstractProvider):
    """Provider of the flags of one server.

    The targeting key is the user. Three attributes of the context have a meaning of their own:
    `user_id` is the user where there is no targeting key, `device_id` names a device instead of a
    user, and `consented` says whether the unit has agreed to `measurement`: `false` keeps it out of
    experiments. Conditions read all others.
    """

    def __init__(self, flags: LocalFlags) -> None:
        """Use flags, which OpenFeature starts and closes."""
        super().__init__()
        self._flags = flags
        flags.on_change(lambda version: self._changed())

    def get_metadata(self) -> Metadata:
        """Return the name of the provider."""
        return Metadata("tactful")

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Fetch the flags, and follow them."""
        self._flags.start()

    def shutdown(self) -> None:
        """Send the waiting exposures, and stop."""
        self._flags.close()

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """Return the value of a flag that is on or off."""
        return self._resolve(flag_key, default_value, evaluation_context, bool)

    def resolve_string_details(
        self,
        flag_key: str,
        default_value: str,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[str]:
        """Return the text of a flag."""
        return self._resolve(flag_key, default_value, evaluation_context, str)

    def resolve_integer_details(
        self,
        flag_key: str,
        default_value: int,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[int]:
        """Return the whole number of a flag."""
        return self._resolve(flag_key, default_value, evaluation_context, int, _whole)

    def resolve_float_details(
        self,
        flag_key: str,
        default_value: float,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[float]:
        """Return the number of a flag."""
        return self._resolve(flag_key, default_value, evaluation_context, float, _real)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Nested,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Nested]:
        """Return the list or mapping of a flag."""
        return self._resolve(flag_key, default_value, evaluation_context, (list, dict))

    def _resolve(
        self,
        key: str,
        default: T,
        context: EvaluationContext | None,
        kinds: Kinds,
        convert: Callable[[Any], Any] = lambda value: value,
    ) -> FlagResolutionDetails[T]:
        unit = self._unit(context)
        found = unit.explain(key)
        if found.source in ("unknown", "cyclic", "remote"):
            code = ErrorCode.FLAG_NOT_FOUND if found.source == "unknown" else ErrorCode.GENERAL
            message = f"flag {key!r}: {found.source}"
            return FlagResolutionDetails(default, code, message, reason=Reason.ERROR)
        reason = _REASONS[found.source]
        if found.value is None:
            return FlagResolutionDetails(default, reason=reason)
        value: Any = convert(found.value)
        fits = isinstance(value, kinds) and isinstance(value, bool) == (kinds is bool)
        if not fits:
            message = f"flag {key!r} has a value of another type"
            code = ErrorCode.TYPE_MISMATCH
            return FlagResolutionDetails(default, code, message, reason=Reason.ERROR)
        unit.value(key, found.value)  # an arm that is applied is an exposure
        about: dict[str, Any] = {"rule": found.rule_id, "experiment": found.experiment}
        metadata = {name: text for name, text in about.items() if text}
        metadata["version"] = self._flags.version
        return FlagResolutionDetails(
            value, reason=reason, variant=found.arm, flag_metadata=metadata
        )

    def _unit(self, context: EvaluationContext | None) -> UnitFlags:
        given = {} if context is None else dict(context.attributes)
        user, device, consented = (given.get(name) for name in _UNIT)
        targeted = None if context is None else context.targeting_key
        return self._flags.for_unit(
            user_id=targeted or (user if isinstance(user, str) else None) or None,
            device_id=device if isinstance(device, str) else None,
            attributes={name: _plain(v) for name, v in given.items() if name not in _UNIT},
            consented=consented if isinstance(consented, bool) else None,
        )

    def _changed(self) -> None:
        self.emit_provider_configuration_changed(ProviderEventDetails())


def _real(value: Any) -> Any:
    """Return a whole number as a float: JSON does not distinguish them, OpenFeature does."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _whole(value: Any) -> Any:
    """Return a float without a fraction as an int."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(value: Any) -> Any:
    """Return a value of JSON; a time as text."""
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
