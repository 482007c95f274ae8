"""Queries about some days that are charged and answered with noise once."""

import hashlib
import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_privacy.errors import ParameterError
from tactful_privacy.ledger.budget import DEFAULT_PURPOSE, DEFAULT_TENANT, Loss, check_name
from tactful_privacy.ledger.budget import MAX_DAYS as MAX_DAYS
from tactful_privacy.mechanisms._exact import decode_fraction, fraction


@dataclass(frozen=True)
class Query:
    """Public definition of a query and its cost.

    Unit of privacy: one user, one UTC day. The answering mechanism must be
    (`epsilon`, `delta`)-private for the contributions of one user on *each* of the days, and every
    day is charged.

    Attributes:
        name: Name of this query and its days, 1 to 190 characters: a repeated query returns the
            stored answer.
        first_day: First UTC day of the query, days since 1970-01-01.
        last_day: Last UTC day.
        epsilon: Privacy loss on each of the days; a Fraction (int and text are converted).
        delta: Delta on each of the days.
        rho: The mechanism is also rho-zCDP; None if it is not, or is pure.
        tenant: Tenant of the users.
        purpose: Purpose of the charge.
        mechanism: The mechanism in words.
        within: Name of a registered statistic that has reserved this loss already for each day,
            such as the daily choice of its cap; None: the query is charged itself.
    """

    name: str
    first_day: int
    last_day: int
    epsilon: Fraction
    delta: Fraction = Fraction(0)
    rho: Fraction | None = None
    tenant: str = DEFAULT_TENANT
    purpose: str = DEFAULT_PURPOSE
    mechanism: str = ""
    within: str | None = None

    def __post_init__(self) -> None:
        """Check and normalise."""
        object.__setattr__(self, "epsilon", fraction(self.epsilon, "epsilon"))
        object.__setattr__(self, "delta", fraction(self.delta, "delta"))
        if self.rho is not None:
            object.__setattr__(self, "rho", fraction(self.rho, "rho"))
        if not isinstance(self.name, str) or not 1 <= len(self.name) <= 190:
            raise ParameterError(f"query {self.name!r}: a name has 1 to 190 characters")
        if not self.first_day <= self.last_day < self.first_day + MAX_DAYS:
            raise ParameterError(
                f"query {self.name!r} is about the days {self.first_day} to {self.last_day}:"
                f" give a first and a last day, at most {MAX_DAYS} days in all"
            )
        check_name(self.tenant, f"query {self.name!r}: tenant")
        check_name(self.purpose, f"query {self.name!r}: purpose")
        _ = self.loss

    @property
    def loss(self) -> Loss:
        """Privacy loss on each day."""
        return Loss(self.epsilon, self.delta, self.rho)

    def to_json(self) -> str:
        """Return the query as JSON for `from_json`."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("epsilon", "delta", "rho"):
            fields[name] = None if fields[name] is None else str(fields[name])
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "Query":
        """Return the query that `to_json` wrote; `msgspec.MsgspecError` if damaged."""
        return msgspec.json.decode(text, type=cls, dec_hook=decode_fraction)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the definition, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Answer:
    """The stored answer of a query, free to be shown.

    Attributes:
        query: The query.
        values: Result of the mechanism, int64 ``[n]``; None: charged, not answered yet.
        reserved_at: Time of the charge, epoch milliseconds.
        answered_at: Time of storage of the answer, epoch milliseconds.
    """

    query: Query
    values: NDArray[np.int64] | None
    reserved_at: int
    answered_at: int | None
