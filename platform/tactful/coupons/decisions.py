"""Decides who gets a coupon: an action comes by, and an offer or a refusal goes to the log.

Each action is decided once. The decision and what it takes from the budget are one transaction,
before the offer is appended to the log; how far the log was read is noted after. A desk that is
killed in between finds its decision when it meets the action again and appends the same event,
whose id counts once. The database holds codes and no people: whom a code was for is in the log
alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from tactful.coupons.definitions import OFFER, WITHHELD, CouponDefinition
from tactful.metadata.store import MetadataStore, coupon_budgets, coupon_offers, coupon_positions
from tactful_bandits.assignment.conditions import matches
from tactful_bandits.assignment.eligibility import Holdout
from tactful_bandits.assignment.hashing import bucket
from tactful_bandits.policies.budget_pacing import BudgetPacing
from tactful_streaming.contract.log_entries import Event, decode_entry, encode_entry, subject_key
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.event_log import EventLog

_CHUNK = 512
_HOUR = 3_600_000
_AGAIN_MS = 60_000  # until a feature surely counts an offer, nobody gets another one
_EXPIRE_MS = 60_000  # the search for what has expired goes through all decisions
_PURCHASE = b"purchase"
# A coupon's price of money follows within some hundred decisions.
_PACE = 0.01


class CouponDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about one action.

    Attributes:
        group: ``holdout``, ``explore`` or ``targeted``.
        offered: whether there is a coupon.
        why: why not, or empty.
        gain: what it was expected to bring; None where nothing is expected of anybody.
        price: of a unit of money at that time, in units of gain.
        expires_at: epoch milliseconds.
    """

    group: str
    offered: bool
    why: str
    gain: float | None
    price: float
    expires_at: int


class CouponIssuer:
    """Follows the partitions of a log, for one thread at a time."""

    def __init__(
        self,
        campaigns: Sequence[CouponDefinition],
        metadata: MetadataStore,
        logs: Sequence[EventLog],
        *,
        features: Callable[[str, int], Mapping[str, Any]],
        clock: Callable[[], int],
    ) -> None:
        """Begin where the last desk stopped; a new one at the end of the log.

        Args:
            campaigns: what there is to give.
            metadata: where decisions and budgets are kept.
            logs: the partitions of the log, in their order.
            features: what is known of a person at a time.
            clock: now in epoch milliseconds.

        Raises:
            StorageError: if the database cannot be used.
        """
        self._campaigns = {each.name: each for each in campaigns}
        self._metadata = metadata
        self._logs = logs
        self._features = features
        self._clock = clock
        self._lately: dict[tuple[str, str], int] = {}
        self._expired_at = 0
        self._marks = [*{each.trigger.encode() for each in campaigns}, _PURCHASE]
        held = {
            row.log_partition: row.position for row in metadata.fetch(sa.select(coupon_positions))
        }
        self.positions = [held.get(number, log.end) for number, log in enumerate(logs)]
        self._kept = dict(held)
        self.settle()

    def run(self) -> list[bytes]:
        """Decide what has come; the entries to append before `settle` is called.

        Raises:
            StorageError: if the database cannot be used.
            StreamingError: if the log cannot be read.
        """
        now = self._clock()
        self._lately = {who: at for who, at in self._lately.items() if now - at < _AGAIN_MS}
        made: list[bytes] = []
        for number, log in enumerate(self._logs):
            end = log.end
            position = max(self.positions[number], log.begin)
            while position < end and len(made) < _CHUNK:
                records = log.read(position, min(_CHUNK, end - position))
                if not records:
                    break
                for _, payload in records:
                    if any(mark in payload for mark in self._marks):
                        made += self._meet(payload)
                position = self.positions[number] = records[-1][0] + 1
        # All is read, so what was redeemed in time is not expired.
        if len(made) < _CHUNK and now - self._expired_at >= _EXPIRE_MS:
            self._expire(now)
            self._expired_at = now
        return made

    def settle(self) -> None:
        """Note that what `run` gave is in the log, so that it is not read again.

        Raises:
            StorageError: if the database cannot be used.
        """
        table = coupon_positions

        def note(connection: sa.Connection) -> None:
            for number, position in enumerate(self.positions):
                if self._kept.get(number) == position:
                    continue
                mine = table.c.log_partition == number
                found = connection.execute(sa.select(table.c.position).where(mine)).scalar()
                if found is None:
                    row = sa.insert(table).values(log_partition=number, position=position)
                    connection.execute(row)
                elif found < position:
                    connection.execute(sa.update(table).where(mine).values(position=position))

        if any(self._kept.get(n) != position for n, position in enumerate(self.positions)):
            self._metadata.change(note)
            self._kept = dict(enumerate(self.positions))

    def rewind(self) -> None:
        """Read again from where the last `settle` was: what `run` gave did not reach the log."""
        for number, position in self._kept.items():
            self.positions[number] = position

    @property
    def needed(self) -> Sequence[int]:
        """By partition, the first offset that is read again if what `run` gave is lost."""
        return [self._kept[number] for number in range(len(self._logs))]

    def left(self, campaign: str) -> float:
        """What is left of a budget, in units of money."""
        definition = self._campaigns[campaign]
        return self._metadata.change(lambda connection: _budget(connection, definition).left)

    def _meet(self, payload: bytes) -> list[bytes]:
        try:
            event = decode_entry(payload)
        except StreamingError:
            return []
        if not isinstance(event, Event):
            return []
        if event.type == "purchase":
            if isinstance(code := event.properties.get("coupon"), str):
                self._redeem(code, event.properties.get("discount"), event.timestamp)
            return []
        person = subject_key(event)
        wanted = [each for each in self._campaigns.values() if each.trigger == event.type]
        if person is None:
            return []
        made = []
        for campaign in wanted:
            if (offer := self._decide(campaign, event, person)) is not None:
                made.append(encode_entry(offer))
        return made

    def _decide(self, campaign: CouponDefinition, event: Event, person: str) -> Event | None:
        code = code_of(campaign.name, event.event_id)
        found = self._features(person, event.timestamp)
        known = {name: 0 if value is None else value for name, value in found.items()}
        lately = self._lately.get((campaign.name, person), 0)
        fits = matches(campaign.eligible, known) and self._clock() - lately >= _AGAIN_MS

        def decide(connection: sa.Connection) -> CouponDecision | None:
            query = sa.select(coupon_offers.c.decision).where(coupon_offers.c.code == code)
            if (text := connection.execute(query).scalar()) is not None:
                return msgspec.json.decode(text, type=CouponDecision)
            if not fits:
                return None
            budget = _budget(connection, campaign)
            decision = self._weigh(campaign, person, known, budget)
            budget.spend(campaign.cost if decision.offered else 0.0)
            _keep(connection, campaign.name, budget)
            connection.execute(
                sa.insert(coupon_offers).values(
                    code=code,
                    campaign=campaign.name,
                    decision=msgspec.json.encode(decision).decode(),
                    cost=campaign.cost if decision.offered else 0.0,
                    expires_at=decision.expires_at,
                    state="offered" if decision.offered else "withheld",
                )
            )
            return decision

        decision = self._metadata.change(decide)
        if decision is None:
            return None
        if decision.offered:
            self._lately[campaign.name, person] = self._clock()
        return self._event(campaign, event, code, decision, known)

    def _weigh(
        self,
        campaign: CouponDefinition,
        person: str,
        known: Mapping[str, Any],
        budget: BudgetPacing,
    ) -> CouponDecision:
        group = group_of(campaign, person)
        gain = expected_gain(campaign, known)
        penalty, covered = budget.terms([campaign.cost])
        why = ""
        if group == "holdout":
            why = "held out"
        elif not covered[0]:
            why = "the budget is spent"
        elif group == "targeted" and gain is not None and gain <= penalty[0]:
            why = "it is not expected to pay"
        return CouponDecision(
            group=group,
            offered=not why,
            why=why,
            gain=gain,
            price=budget.price,
            expires_at=self._clock() + int(campaign.valid_hours * _HOUR),
        )

    def _event(
        self,
        campaign: CouponDefinition,
        cause: Event,
        code: str,
        decision: CouponDecision,
        known: Mapping[str, Any],
    ) -> Event:
        properties: dict[str, Any] = {
            "campaign": campaign.name,
            "group": decision.group,
            "cause": cause.event_id,
            "price": decision.price,
        }
        if decision.gain is not None:
            properties["gain"] = decision.gain
        if campaign.features:
            properties["features"] = [_number(known.get(name)) for name in campaign.features]
        if decision.offered:
            properties |= {"code": code, "expires_at": decision.expires_at, **campaign.offer}
        else:
            properties["why"] = decision.why
        return Event(
            event_id=f"coupon:{code}",
            type=OFFER if decision.offered else WITHHELD,
            timestamp=cause.timestamp,
            user_id=cause.user_id,
            device_id=cause.device_id,
            session_id=cause.session_id,
            properties=properties,
            context=cause.context,
        )

    def _redeem(self, code: str, discount: object, at: int) -> None:
        """Book what a coupon really cost; one that is unknown, used or expired books nothing."""
        mine = coupon_offers.c.code == code

        def redeem(connection: sa.Connection) -> None:
            row = connection.execute(sa.select(coupon_offers).where(mine)).first()
            if row is None or row.state != "offered" or row.campaign not in self._campaigns:
                return
            if at > row.expires_at:
                return
            cost = row.cost
            if isinstance(discount, int | float) and 0 <= discount <= row.cost:
                cost = float(discount)
            self._give_back(connection, row.campaign, row.cost - cost)
            update = sa.update(coupon_offers).where(mine).values(state="redeemed", cost=cost)
            connection.execute(update)

        self._metadata.change(redeem)

    def _expire(self, now: int) -> None:
        """Give back to the budgets what nobody has redeemed in time."""
        late = sa.and_(coupon_offers.c.state == "offered", coupon_offers.c.expires_at < now)
        if not self._metadata.fetch(sa.select(coupon_offers.c.code).where(late).limit(1)):
            return

        def expire(connection: sa.Connection) -> None:
            for row in connection.execute(sa.select(coupon_offers).where(late)).all():
                if row.campaign in self._campaigns:
                    self._give_back(connection, row.campaign, row.cost)
                mine = coupon_offers.c.code == row.code
                connection.execute(
                    sa.update(coupon_offers).where(mine).values(state="expired", cost=0.0)
                )

        self._metadata.change(expire)

    def _give_back(self, connection: sa.Connection, name: str, amount: float) -> None:
        budget = _budget(connection, self._campaigns[name])
        budget.refund(min(amount, budget.spent))
        _keep(connection, name, budget)


def forget_offers(metadata: MetadataStore, before: int) -> int:
    """Delete decisions on coupons that nothing can be redeemed of since a time.

    Such a decision is not met again: what it was made of is behind where the log was read to.

    Args:
        metadata: where they are kept.
        before: epoch milliseconds.

    Returns:
        How many there were.

    Raises:
        StorageError: if the database cannot be used.
    """
    # What is still to be given back to its budget stays until that is done.
    over = sa.and_(coupon_offers.c.expires_at < before, coupon_offers.c.state != "offered")
    if not metadata.fetch(sa.select(coupon_offers.c.code).where(over).limit(1)):
        return 0
    statement = sa.delete(coupon_offers).where(over)
    return int(metadata.change(lambda connection: connection.execute(statement).rowcount))


def code_of(campaign: str, action: str) -> str:
    """The code of the coupon that an action causes; the same each time it is asked for."""
    text = f"{len(campaign)}:{campaign}{action}".encode()
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def group_of(campaign: CouponDefinition, person: str) -> str:
    """``holdout``, ``explore`` or ``targeted``; always the same for a person."""
    if Holdout(f"coupon:{campaign.name}", campaign.holdout).holds(person):
        return "holdout"
    explores = bucket(f"coupon-explore:{campaign.name}", person) < campaign.explore
    return "explore" if explores else "targeted"


def expected_gain(campaign: CouponDefinition, known: Mapping[str, Any]) -> float | None:
    """What a coupon is expected to bring, in units of money; None without weights."""
    if not campaign.gain:
        return None
    return sum(
        weight * (1.0 if name == "constant" else _number(known.get(name)))
        for name, weight in campaign.gain.items()
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _budget(connection: sa.Connection, campaign: CouponDefinition) -> BudgetPacing:
    """The budget as it stands; a larger or smaller one in the definition keeps what was spent.

    One that is smaller than what was spent has nothing left until as much was given back.
    """
    table = coupon_budgets.c
    query = sa.select(table.state).where(table.campaign == campaign.name).with_for_update()
    held = connection.execute(query).scalar()
    amount, horizon = campaign.budget.amount, campaign.budget.decisions
    old = None if held is None else BudgetPacing.from_bytes(bytes(held))
    spent = 0.0 if old is None else old.spent
    fresh = BudgetPacing(max(amount, spent), horizon, step=_PACE / campaign.cost)
    if old is not None:
        fresh.price, fresh.spent, fresh.decisions = old.price, spent, old.decisions
    return fresh


def _keep(connection: sa.Connection, campaign: str, budget: BudgetPacing) -> None:
    mine = coupon_budgets.c.campaign == campaign
    if connection.execute(sa.select(coupon_budgets.c.campaign).where(mine)).first() is None:
        row = sa.insert(coupon_budgets).values(campaign=campaign, state=budget.to_bytes())
        connection.execute(row)
    else:
        update = sa.update(coupon_budgets).where(mine).values(state=budget.to_bytes())
        connection.execute(update)
