"""Decisions of bandits: made, logged and read back.

A decision is an event of the log: of the type ``x.bandit`` where a shop asked for a value, and part
of the impression where it shaped a recommendation, or of the offer where it chose the value of a
coupon. Its properties::

    bandit              "home-banner"
    bandit_arm          "winter"        the arm that serves
    bandit_propensity   0.93            its probability in the log, as served
    bandit_probability  0.41            its probability under the bandit, also in shadow
    bandit_floor        0.03            least probability of any arm in the log; 0: of some none
    bandit_choice       "spring"        arm that the bandit would choose, in shadow
    bandit_features     [1.0, 0.2]
    bandit_layout       "9f2b01aa"      fingerprint of the features' definition
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.event_log.impressions import DECISION, DECISION_ID, is_decision, is_served
from tactful_streaming.contract.log_entries import Event, encode_entry, subject_key

FEATURES = "bandit_features"
"""Property of a logged decision: the vector of its features."""

MARK = b"bandit"
"""Bytes in the record of every decision."""


@dataclass(frozen=True)
class Decision:
    """A decision of a bandit."""

    key: str  # key of the bandit
    arm: str  # name of the arm that serves
    index: int  # its index
    propensity: float  # its probability, as served
    probability: float  # its probability under the bandit
    floor: float  # least probability of any arm, as served
    choice: str  # arm that the bandit chooses; the same as `arm` where it serves
    live: bool  # whether the bandit serves
    features: NDArray[np.float64]
    layout: str = ""  # of the features, see `BanditDefinition`

    def to_log_fields(self) -> dict[str, Any]:
        """Return the properties of the logged decision."""
        fields: dict[str, Any] = {
            "bandit": self.key,
            "bandit_arm": self.arm,
            "bandit_propensity": self.propensity,
            "bandit_probability": self.probability,
            "bandit_floor": self.floor,
            "bandit_live": self.live,
        }
        if not self.live:
            fields["bandit_choice"] = self.choice
        if len(self.features):
            fields[FEATURES] = self.features.tolist()
            fields["bandit_layout"] = self.layout
        return fields


class LoggedDecision(msgspec.Struct, frozen=True):
    """A decision that was read from the log."""

    key: str = msgspec.field(name="bandit")
    arm: str = msgspec.field(name="bandit_arm")
    propensity: float = msgspec.field(name="bandit_propensity")
    probability: float = msgspec.field(name="bandit_probability")
    floor: float = msgspec.field(name="bandit_floor")
    live: bool = msgspec.field(name="bandit_live")
    choice: str = msgspec.field(name="bandit_choice", default="")
    features: list[float] = msgspec.field(name=FEATURES, default_factory=list)
    layout: str = msgspec.field(name="bandit_layout", default="")  # empty: not known


def encode_decision(
    decision: Decision,
    decision_id: str,
    *,
    at: int,
    user_id: str | None,
    device_id: str | None,
    session_id: str | None,
    more: Mapping[str, Any],
) -> bytes:
    """Encode the log record of a decision that a shop asked for.

    `at` is its time, epoch milliseconds; `more` holds further properties.
    """
    return encode_entry(
        Event(
            event_id=DECISION_ID + decision_id,
            type=DECISION,
            timestamp=at,
            user_id=user_id,
            device_id=device_id,
            session_id=session_id,
            recommendation_id=decision_id,
            properties={**decision.to_log_fields(), **more},
        )
    )


def read_decision(event: Event) -> LoggedDecision | None:
    """Return the decision in an event of the server's own; None if it has none."""
    if "bandit" not in event.properties:
        return None
    if not is_decision(event) and not is_served(event):
        return None
    if subject_key(event) is None or event.recommendation_id is None:
        return None
    try:
        decision = msgspec.convert(event.properties, LoggedDecision)
    except msgspec.ValidationError:
        return None
    shares = (decision.propensity, decision.probability, decision.floor)
    return decision if all(0 <= share <= 1 for share in shares) else None


def new_decision_id(random: bytes) -> str:
    """Return an id that nobody can guess, from 18 random bytes."""
    return base64.urlsafe_b64encode(random).decode()


def draw(shares: Sequence[float], rng: np.random.Generator) -> int:
    """Draw an index by probabilities, which sum to 1."""
    rest = rng.random()
    for index, share in enumerate(shares):
        rest -= share
        if rest < 0:
            return index
    return len(shares) - 1
