"""The public definition of one published statistic, and the choice of its daily caps."""

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import accumulate

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_privacy.errors import ParameterError
from tactful_privacy.ledger.amounts import Amounts
from tactful_privacy.ledger.budget import DEFAULT_PURPOSE, DEFAULT_TENANT, Loss, check_name
from tactful_privacy.ledger.budget import UNIT as UNIT
from tactful_privacy.ledger.periods import Period, period_end, period_start
from tactful_privacy.mechanisms._exact import decode_fraction, fraction
from tactful_privacy.mechanisms._table import open_share
from tactful_privacy.mechanisms.counting_tree import best_tree
from tactful_privacy.mechanisms.gaussian import DiscreteGaussian
from tactful_privacy.mechanisms.laplace import DiscreteLaplace, Entropy, noise_scale
from tactful_privacy.mechanisms.matrix_factorisation import (
    GaussianTotals,
    gaussian_panes,
    gaussian_totals,
)
from tactful_privacy.mechanisms.threshold import ThresholdRelease

DAY_MS = 86_400_000
PANES = "panes"
"""Kind of a statistic that releases the counts of each pane."""
GAUSSIAN_PANES = "gaussian_panes"
"""Kind of a statistic that releases the counts of each pane with Gaussian noise."""
RUNNING_TOTALS = "running_totals"
"""Kind of a statistic that releases totals since midnight, noised by the nodes of a tree."""
GAUSSIAN_TOTALS = "gaussian_totals"
"""Kind of a statistic that releases totals since midnight with Gaussian noise."""
FOUND_KEYS = "found_keys"
"""Kind of a statistic without a catalogue: shows keys with enough users."""
TOTALS = (RUNNING_TOTALS, GAUSSIAN_TOTALS)
"""Kinds that count since midnight (UTC)."""
HOUR_MS = 3_600_000

# Omitted from the definition at their default: older ledgers lack them, and the fingerprint of an
# unchanged statistic must not change.
_LATER_FIELDS = {
    "hour_cap": None,
    "tenant": DEFAULT_TENANT,
    "purpose": DEFAULT_PURPOSE,
    "cap_of": None,
    "period": None,
}

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")

CAP_MECHANISM = "discrete Laplace on the histogram of contributions by person"


@dataclass(frozen=True)
class CapChoice:
    """Public parameters for choosing a day's cap from the day before.

    A histogram of people by their number of contributions gets noise. Each user is in one bucket,
    so its L1 sensitivity is 1 and it costs `epsilon` for the day before. It is drawn once and kept
    in the ledger. The cap is computed from the noisy histogram, so it costs nothing more and may
    be shown.

        candidates (2, 5, 20)  ->  buckets 1..2, 3..5, 6 or more contributions

    Attributes:
        candidates: Candidate caps, rising; the last is the `cap` of the statistic.
        epsilon: Privacy loss of one user and one UTC day, beside that of the tables.
        quantile: Share of the people whose contributions should all count.
    """

    candidates: tuple[int, ...]
    epsilon: Fraction
    quantile: Fraction = Fraction(9, 10)

    def __post_init__(self) -> None:
        """Check and normalise."""
        object.__setattr__(self, "candidates", tuple(self.candidates))
        object.__setattr__(self, "epsilon", fraction(self.epsilon, "cap_choice: epsilon"))
        object.__setattr__(self, "quantile", fraction(self.quantile, "cap_choice: quantile"))
        whole = all(type(cap) is int for cap in self.candidates)
        if not whole or not self.candidates or self.candidates[0] < 1:
            raise ParameterError(
                f"cap_choice: candidates are {self.candidates!r}: give positive integers"
            )
        if any(b <= a for a, b in zip(self.candidates, self.candidates[1:], strict=False)):
            raise ParameterError(f"cap_choice: candidates are {self.candidates}: they must rise")
        if not 0 < self.quantile < 1:
            raise ParameterError(f"cap_choice: quantile is {self.quantile}: above 0 and below 1")
        noise_scale(1, self.epsilon)

    def histogram(self, contributions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count people by their contributions of a day, ``[candidates]``. Secret.

        Each of the people, ``[people]``, has one or more, counted up to the last candidate.
        """
        bucket = np.searchsorted(self.candidates, contributions)
        bucket = np.minimum(bucket, len(self.candidates) - 1)
        return np.bincount(bucket, minlength=len(self.candidates)).astype(np.int64)

    def noisy(
        self, contributions: NDArray[np.int64], entropy: Entropy = os.urandom
    ) -> NDArray[np.int64]:
        """Return the histogram with fresh noise: epsilon for one user of the day."""
        noise = DiscreteLaplace(1, self.epsilon, entropy=entropy)
        return self.histogram(contributions) + noise.sample(len(self.candidates))

    def cap(self, noisy: NDArray[np.int64]) -> int:
        """Return the smallest candidate that covers the quantile of the people.

        Negative counts are taken as 0. If the total may be noise alone, the last candidate is
        returned.
        """
        people = np.maximum(noisy, 0).tolist()
        noise = DiscreteLaplace(1, self.epsilon)
        if sum(people) <= len(people) * noise.interval():
            return self.candidates[-1]
        wanted = self.quantile * sum(people)
        below = accumulate(people)
        return next(cap for cap, upto in zip(self.candidates, below, strict=True) if upto >= wanted)

    def to_dict(self) -> dict[str, object]:
        """Return the arguments of the constructor as JSON values."""
        return {
            "candidates": list(self.candidates),
            "epsilon": str(self.epsilon),
            "quantile": str(self.quantile),
        }


@dataclass(frozen=True)
class Statistic:
    """Public definition of counts per key and pane that are published with noise.

    Unit of privacy: one user, one UTC day. One user adds at most `cap` to the counts of a day,
    each contribution to exactly one (pane, key) cell, hence the whole day's table of panes and
    keys has L1 sensitivity C = `cap` (for sums, `cap` times the largest amount), and noise of scale
    C / epsilon on every cell costs epsilon for the day with any number of panes and keys (vector
    Laplace mechanism, Dwork, McSherry, Nissim, Smith, TCC 2006). The days of a week or month fall
    into one table, in which each of them changes as much: each day of the period costs epsilon.

    Attributes:
        name: Lower-case letters, digits, ``.``, ``_``, ``-``; at most 128 characters.
        keys: The public catalogue. It must not be learnt from the counted data: a key that
            appears because somebody bought it reveals the purchase. Empty for ``found_keys``.
        pane_ms: Length of a pane in milliseconds; it divides 24 hours, so no pane spans two days.
        cap: Most contributions of one user and one UTC day.
        epsilon: Privacy loss of one user and one UTC day; a Fraction (int and text are converted,
            floats refused). The cost of a cap choice comes on top, see `loss`.
        cell_cap: Most contributions of one user to one (pane, key) cell; default `cap`. It does
            not lower the noise; it keeps one burst from using up a user's day.
        kind: Kind of the release of a pane: ``panes``, its own counts; ``gaussian_panes``, the
            same with Gaussian noise, which is smaller for many cells of `cell_cap` 1;
            ``running_totals``, the
            counts since midnight (UTC) up to its end; ``gaussian_totals``, the same with Gaussian
            noise, which is smaller for large caps and needs a delta; ``found_keys``, the keys of a
            day outside any catalogue that enough users share, with their number.
        hour_cap: Most contributions of one user and one hour; default `cap`. Like `cell_cap` it
            does not lower the noise.
        tenant: Tenant of the counted users.
        purpose: Purpose of the statistic; budgets can be set by tenant and purpose.
        cap_choice: Choice of each day's cap, at most `cap`; None: the cap is always `cap`.
        delta: Delta of Gaussian noise and ``found_keys``, for one user and one UTC day; None for
            the other kinds.
        cap_of: Name of the statistic that chooses the cap of each day, if this statistic is made
            from its counts; None: the cap is `cap`.
        amounts: Range of the amounts that are added up, only of panes; None: contributions are
            counted.
        period: ``week`` or ``month``: the days of a calendar period are released together, as its
            only pane; `pane_ms` is a day. With a `cell_cap` of 1 a user counts once for a period
            and key. None: each pane is released.

    Example:
        >>> views = Statistic("views.hourly", ("bread", "milk"), 3_600_000, cap=5, epsilon=1)
        >>> views.sensitivity, str(views.loss)
        (5, 'epsilon 1')
    """

    name: str
    keys: tuple[str, ...]
    pane_ms: int
    cap: int
    epsilon: Fraction
    cell_cap: int | None = None
    kind: str = PANES
    hour_cap: int | None = None
    tenant: str = DEFAULT_TENANT
    purpose: str = DEFAULT_PURPOSE
    cap_choice: CapChoice | None = None
    delta: Fraction | None = None
    cap_of: str | None = None
    amounts: Amounts | None = None
    period: Period | None = None

    def __post_init__(self) -> None:
        """Check and normalise."""
        object.__setattr__(self, "keys", tuple(self.keys))
        object.__setattr__(self, "epsilon", fraction(self.epsilon, "epsilon"))
        where = f"statistic {self.name!r}"
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ParameterError(
                f"{where}: a name is 1 to 128 of a-z, 0-9, '.', '_' and '-',"
                " beginning with a letter or digit"
            )
        if self.kind == FOUND_KEYS:
            self._check_found_keys(where)
        elif not self.keys or not all(isinstance(key, str) and key for key in self.keys):
            raise ParameterError(f"{where}: keys must be one or more non-empty strings")
        if len(set(self.keys)) < len(self.keys):
            raise ParameterError(f"{where}: a key is listed twice")
        _positive(self.pane_ms, f"{where}: pane_ms")
        if DAY_MS % self.pane_ms:
            raise ParameterError(
                f"{where}: pane_ms is {self.pane_ms}, which does not divide a day of {DAY_MS} ms;"
                " a pane across midnight would charge two days"
            )
        _positive(self.cap, f"{where}: cap")
        if self.cell_cap is not None:
            _positive(self.cell_cap, f"{where}: cell_cap")
        if self.hour_cap is not None:
            _positive(self.hour_cap, f"{where}: hour_cap")
            if HOUR_MS % self.pane_ms and self.pane_ms % HOUR_MS:
                raise ParameterError(
                    f"{where}: with hour_cap a pane must divide an hour, or be whole hours"
                )
        check_name(self.tenant, f"{where}: tenant")
        check_name(self.purpose, f"{where}: purpose")
        self._check_kind(where)

    def _check_kind(self, where: str) -> None:
        """Check the parameters of the kind and of its noise."""
        if self.cap_choice is not None and self.cap_choice.candidates[-1] != self.cap:
            raise ParameterError(
                f"{where}: cap is {self.cap}: it must be the largest candidate of cap_choice,"
                f" {self.cap_choice.candidates[-1]}"
            )
        kinds = (PANES, GAUSSIAN_PANES, *TOTALS, FOUND_KEYS)
        private = (GAUSSIAN_PANES, GAUSSIAN_TOTALS, FOUND_KEYS)
        if self.kind not in kinds:
            raise ParameterError(f"{where}: kind is {self.kind!r}: give one of {', '.join(kinds)}")
        if self.cap_choice is not None and self.kind != PANES:
            raise ParameterError(f"{where}: {self.kind} need a fixed cap")
        if self.cap_of is not None and (self.cap_choice or self.kind in private):
            raise ParameterError(
                f"{where}: cap_of is for panes and running totals without a choice"
            )
        if (self.delta is None) == (self.kind in private):
            raise ParameterError(
                f"{where}: {', '.join(private)} need a delta, other kinds have none"
            )
        if self.amounts is not None and (
            self.kind not in (PANES, GAUSSIAN_PANES) or self.cell_cap is not None
        ):
            raise ParameterError(f"{where}: amounts are for panes without a cell_cap")
        if self.period is not None and (
            self.kind not in (PANES, GAUSSIAN_PANES)
            or self.pane_ms != DAY_MS
            or self.cell_cap not in (None, 1)
            or self.cap_choice is not None
        ):
            raise ParameterError(
                f"{where}: a {self.period} is made of panes of a day, of a fixed cap and a cell_cap"
                " of 1 or none"
            )
        if self.delta is None:
            noise_scale(self.sensitivity, self.epsilon)
            return
        object.__setattr__(self, "delta", open_share(self.delta, f"{where}: delta"))
        _ = self.threshold if self.kind == FOUND_KEYS else self.gaussian

    def _check_found_keys(self, where: str) -> None:
        if self.keys or self.pane_ms != DAY_MS:
            raise ParameterError(f"{where}: {FOUND_KEYS} have no keys, and a pane of a day")
        if self.hour_cap is not None or self.cell_cap not in (None, 1):
            raise ParameterError(f"{where}: {FOUND_KEYS} count users once for a key, up to the cap")

    def start_of(self, at: int) -> int:
        """Return the start of the released pane of a time, epoch milliseconds."""
        return at - at % self.pane_ms if self.period is None else period_start(self.period, at)

    def end_of(self, start: int) -> int:
        """Return the first millisecond after the released pane that begins at `start`."""
        return start + self.pane_ms if self.period is None else period_end(self.period, start)

    @cached_property
    def sensitivity(self) -> int:
        """L1 sensitivity of the counts that get noise.

        For panes this is `cap`, times the largest amount of sums. Running totals are sums of noisy
        nodes of a tree; a contribution lies in one node of each level, so their sensitivity is
        `cap` times the number of levels.
        """
        if self.kind == RUNNING_TOTALS:
            return self.cap * best_tree(DAY_MS // self.pane_ms).levels
        return self.cap * self._largest

    @property
    def _largest(self) -> int:
        """Largest change of a cell by one contribution."""
        return 1 if self.amounts is None else self.amounts.largest

    @cached_property
    def gaussian(self) -> GaussianTotals:
        """Mechanism of Gaussian noise; `ParameterError` for a kind without it."""
        if self.delta is None or self.kind not in (GAUSSIAN_PANES, GAUSSIAN_TOTALS):
            raise ParameterError(
                f"statistic {self.name!r} has the kind {self.kind}, without Gaussian noise"
            )
        length, cell_cap = DAY_MS // self.pane_ms, self.cell_cap or self.cap
        if self.kind == GAUSSIAN_PANES:
            return gaussian_panes(self.cap, cell_cap, self._largest, self.epsilon, self.delta)
        return gaussian_totals(length, self.cap, cell_cap, self.epsilon, self.delta)

    @cached_property
    def threshold(self) -> int:
        """Smallest noisy number of users of a shown key of ``found_keys``."""
        return self.threshold_release().threshold

    def threshold_release(self, entropy: Entropy = os.urandom) -> ThresholdRelease:
        """Return the mechanism of ``found_keys``; `ParameterError` for another kind."""
        if self.delta is None or self.kind != FOUND_KEYS:
            raise ParameterError(f"statistic {self.name!r} has a catalogue and no threshold")
        return ThresholdRelease(self.cap, self.epsilon, self.delta, cell_cap=1, entropy=entropy)

    @property
    def loss(self) -> Loss:
        """Privacy loss of one user and one UTC day, including the choice of the cap."""
        if self.kind == FOUND_KEYS:
            return Loss(self.epsilon, self.delta or Fraction(0))
        if self.delta is not None:
            return Loss(self.epsilon, self.delta, self.gaussian.rho)
        if self.cap_choice is not None:
            return Loss(self.epsilon + self.cap_choice.epsilon)
        return Loss(self.epsilon, sensitivity=None if self.cap_of else self.sensitivity)

    def with_cap(self, cap: int) -> "Statistic":
        """Return the statistic with the chosen cap of a day, which determines its noise."""
        return replace(self, cap=cap, cap_choice=None, cap_of=None)

    def mechanism(self, entropy: Entropy = os.urandom) -> DiscreteLaplace | DiscreteGaussian:
        """Return the noise of one cell of panes, or of one node of the tree."""
        if self.kind == GAUSSIAN_PANES:
            return self.gaussian.noise(entropy)
        if self.kind == GAUSSIAN_TOTALS:
            raise ParameterError(f"the noise of {self.name!r} is Gaussian, not Laplace")
        return DiscreteLaplace(self.sensitivity, self.epsilon, entropy=entropy)

    def to_json(self) -> str:
        """Return the definition as JSON for `from_json`."""
        fields: dict[str, object] = {
            "name": self.name,
            "keys": self.keys,
            "pane_ms": self.pane_ms,
            "cap": self.cap,
            "epsilon": str(self.epsilon),
            "cell_cap": self.cell_cap,
        }
        if self.kind != PANES:  # the first ledgers had no other kind
            fields["kind"] = self.kind
        for field, default in _LATER_FIELDS.items():
            if (value := getattr(self, field)) != default:
                fields[field] = value
        if self.cap_choice is not None:
            fields["cap_choice"] = self.cap_choice.to_dict()
        if self.amounts is not None:
            fields["amounts"] = self.amounts.to_dict()
        if self.delta is not None:
            fields["delta"] = str(self.delta)
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "Statistic":
        """Return the statistic that `to_json` wrote; `msgspec.MsgspecError` if damaged."""
        return msgspec.json.decode(text, type=cls, dec_hook=decode_fraction)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the definition, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _positive(value: object, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ParameterError(f"{what} is {value!r}: give a positive integer")
