"""Public range and step of the amounts that a statistic adds up."""

from dataclasses import dataclass
from fractions import Fraction

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import fraction


@dataclass(frozen=True)
class Amounts:
    """Range of summed amounts, in whole steps: sums are integers, so their noise is exact.

    Amounts outside the range count as its nearer end. Range and step must not be learnt from
    amounts.

    Attributes:
        low: Smallest amount, in steps.
        high: Largest amount, in steps.
        step: Size of a step, exact and positive.

    Example:
        >>> prices = Amounts(0, 200, "1/2")
        >>> prices.steps(12.2), prices.steps(1e9), prices.steps(-3), prices.largest
        (24, 200, 0, 200)
    """

    low: int
    high: int
    step: Fraction

    def __post_init__(self) -> None:
        """Check and normalise."""
        object.__setattr__(self, "step", fraction(self.step, "step"))
        if self.step <= 0:
            raise ParameterError(f"step is {self.step}: it must be above 0")
        if type(self.low) is not int or type(self.high) is not int or self.low >= self.high:
            raise ParameterError(
                f"amounts from {self.low} to {self.high}: give two integers, rising"
            )

    @property
    def largest(self) -> int:
        """Largest change of a sum by one amount, in steps."""
        return max(abs(self.low), abs(self.high))

    def clamped(self, steps: int) -> int:
        """Return the nearest number of steps within the range."""
        return min(max(steps, self.low), self.high)

    def steps(self, value: float) -> int:
        """Return an amount, not NaN, in steps: clamped, then rounded half to even."""
        if value >= self.high * self.step:
            return self.high
        return self.low if value <= self.low * self.step else round(Fraction(value) / self.step)

    def to_dict(self) -> dict[str, object]:
        """Return the arguments of the constructor as JSON values."""
        return {"low": self.low, "high": self.high, "step": str(self.step)}
