"""Issue coupons: each action in the log is answered by an offer or a withheld offer in the log.

Each action is decided once. The decision and its cost in the budget are one transaction, before the
offer is appended to the log; the position in the log is stored after. A process that is killed in
between finds its decision when it reads the action again and appends the same event, whose id
counts once. The database holds codes and no users: the user of a code stands in the log alone.
Until the code is redeemed or expires, its decision holds a seal of both under the keyring.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from tactful.bandits.decisions import FEATURES
from tactful.coupons.definitions import PROPENSITY, WITHHELD, CouponDefinition
from tactful.coupons.gain_model import expected_gain, number_or_0
from tactful.coupons.values import ChosenValue, Offer, Values, no_value
from tactful.event_log.impressions import OFFER, OFFER_ID
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import coupon_budgets, coupon_offers, coupon_positions
from tactful_bandits.assignment.conditions import matches
from tactful_bandits.assignment.eligibility import Holdout
from tactful_bandits.assignment.hashing import bucket
from tactful_bandits.policies.budget_pacing import BudgetPacing
from tactful_privacy.people.pseudonyms import Keyring
from tactful_streaming.contract.log_entries import (
    Event,
    decode_entry,
    encode_entry,
    event_key,
    named_keys,
    subject_key,
)
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.event_log import EventLog

_CHUNK = 512
_HOUR = 3_600_000
_AGAIN_MS = 60_000  # a user gets no other offer until features surely count the first
_EXPIRE_MS = 60_000  # the search for expired coupons reads all decisions
_PURCHASE = b"purchase"
# A coupon's price of money follows within some hundred decisions.
_PACE = 0.01


class CouponDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Decision about one action."""

    group: str  # `holdout`, `explore` or `targeted`
    offered: bool  # whether a coupon is offered
    why: str  # reason for withholding it, or empty
    gain: float | None  # expected gain; None without weights
    price: float  # of a unit of money at that time, in units of gain
    # chance of a coupon among the explored and the held out; None in older decisions
    propensity: float | None = None
    expires_at: int  # epoch milliseconds
    value: Offer = {}  # properties of the offer that a bandit chose
    bandit: dict[str, Any] = {}  # logged properties of its decision, without features of the user
    key_id: int = 0  # key of the seal
    seal: str = ""  # of user and code, hexadecimal; empty unless it can be redeemed

    def unsealed(self) -> str:
        """Encode the decision without the seal."""
        return msgspec.json.encode(msgspec.structs.replace(self, key_id=0, seal="")).decode()


class CouponIssuer:
    """Decides actions in the partitions of a log, and books redeemed and expired coupons.

    Use by one thread at a time.

    ```text
    positions        partition → next offset to read; _stored holds the offset in the database
    coupon_offers    code → campaign, decision, cost, state offered | withheld | redeemed | expired
    coupon_budgets   campaign → spent, price of money
    ```

    All methods raise StorageError if the database cannot be used, `run` also StreamingError if the
    log cannot be read.
    """

    def __init__(
        self,
        campaigns: Sequence[CouponDefinition],
        metadata: MetadataStore,
        logs: Sequence[EventLog],
        *,
        features: Callable[[str, int], Mapping[str, Any]],
        clock: Callable[[], int],
        keyring: Keyring | None = None,
        keys_of: Callable[[Event], Collection[str]] = lambda event: (*named_keys(event),),
        gain_of: Callable[[CouponDefinition, Mapping[str, Any]], float | None] = expected_gain,
        values: Values = no_value,
    ) -> None:
        """Continue at the stored positions; without any, begin at the end of the log.

        `logs` are the partitions in their order; `features` returns those of a user at a time.
        With a keyring only the user who was offered a coupon redeems it: `keys_of` returns all keys
        of an event's user. `gain_of` returns the expected gain of a coupon from a user's features,
        and `values` the value that a campaign's bandit chooses.
        """
        self._keyring = keyring
        self._keys_of = keys_of
        self._gain_of = gain_of
        self._values = values
        self._campaigns = {campaign.name: campaign for campaign in campaigns}
        self._metadata = metadata
        self._logs = logs
        self._features = features
        self._clock = clock
        self._lately: dict[tuple[str, str], int] = {}
        self._expired_at = 0
        self._marks = [*{campaign.trigger.encode() for campaign in campaigns}, _PURCHASE]
        rows = metadata.fetch(sa.select(coupon_positions))
        self._stored = {row.log_partition: row.position for row in rows}
        self.positions = [self._stored.get(number, log.end) for number, log in enumerate(logs)]
        self.settle()

    def run(self) -> list[bytes]:
        """Decide new actions, and return the entries to append before `settle` is called."""
        now = self._clock()
        self._lately = {key: at for key, at in self._lately.items() if now - at < _AGAIN_MS}
        entries: list[bytes] = []
        for number, log in enumerate(self._logs):
            end = log.end
            position = max(self.positions[number], log.begin)
            while position < end and len(entries) < _CHUNK:
                records = log.read(position, min(_CHUNK, end - position))
                if not records:
                    break
                for _, payload in records:
                    if any(mark in payload for mark in self._marks):
                        entries += self._read(payload)
                position = self.positions[number] = records[-1][0] + 1
        # Only after the whole log is read: coupons redeemed in time do not expire.
        if len(entries) < _CHUNK and now - self._expired_at >= _EXPIRE_MS:
            self._expire(now)
            self._expired_at = now
        return entries

    def settle(self) -> None:
        """Store the positions, once the entries of `run` are in the log."""
        table = coupon_positions

        def store(connection: sa.Connection) -> None:
            for number, position in enumerate(self.positions):
                if self._stored.get(number) == position:
                    continue
                partition = table.c.log_partition == number
                stored = connection.execute(sa.select(table.c.position).where(partition)).scalar()
                if stored is None:
                    row = sa.insert(table).values(log_partition=number, position=position)
                    connection.execute(row)
                elif stored < position:
                    connection.execute(sa.update(table).where(partition).values(position=position))

        if any(self._stored.get(n) != position for n, position in enumerate(self.positions)):
            self._metadata.change(store)
            self._stored = dict(enumerate(self.positions))

    def resume(self) -> None:
        """Continue where another server has stopped: at the positions in the database."""
        for row in self._metadata.fetch(sa.select(coupon_positions)):
            if row.log_partition in self._stored:
                at = max(row.position, self._stored[row.log_partition])
                self._stored[row.log_partition] = self.positions[row.log_partition] = at

    def rewind(self) -> None:
        """Go back to the last `settle`: the entries of `run` did not reach the log."""
        for number, position in self._stored.items():
            self.positions[number] = position

    @property
    def needed(self) -> Sequence[int]:
        """By partition, the first offset that is read again if the entries of `run` are lost."""
        return [self._stored[number] for number in range(len(self._logs))]

    def left(self, campaign: str) -> float:
        """Return the rest of a budget, in units of money."""
        definition = self._campaigns[campaign]
        return self._metadata.change(lambda connection: _budget(connection, definition).left)

    def _read(self, payload: bytes) -> list[bytes]:
        try:
            event = decode_entry(payload)
        except StreamingError:
            return []
        if not isinstance(event, Event):
            return []
        if event.type == "purchase":
            if isinstance(code := event.properties.get("coupon"), str):
                self._redeem(code, event)
            return []
        person = subject_key(event)
        if person is None:
            return []
        entries = []
        for campaign in self._campaigns.values():
            if campaign.trigger != event.type:
                continue
            if (offer := self._decide(campaign, event, person)) is not None:
                entries.append(encode_entry(offer))
        return entries

    def _decide(self, campaign: CouponDefinition, event: Event, person: str) -> Event | None:
        code = code_of(campaign.name, event_key(event))
        features = self._features(person, event.timestamp)
        known = {name: 0 if value is None else value for name, value in features.items()}
        lately = self._lately.get((campaign.name, person), 0)
        fits = matches(campaign.eligible, known) and self._clock() - lately >= _AGAIN_MS
        chosen = self._values(campaign.bandit, event, known) if campaign.bandit else None

        def decide(connection: sa.Connection) -> CouponDecision | None:
            query = sa.select(coupon_offers.c.decision).where(coupon_offers.c.code == code)
            if (text := connection.execute(query).scalar()) is not None:
                return msgspec.json.decode(text, type=CouponDecision)
            if not fits:
                return None
            budget = _budget(connection, campaign)
            decision = self._sealed(self._weigh(campaign, person, known, budget), code, person)
            if chosen is not None and decision.offered:
                more = {"value": chosen.value, "bandit": chosen.logged}
                decision = msgspec.structs.replace(decision, **more)
            cost = campaign.cost if decision.offered else 0.0
            budget.spend(cost)
            _store_budget(connection, campaign.name, budget)
            row = {"code": code, "campaign": campaign.name, "expires_at": decision.expires_at}
            row |= {"decision": msgspec.json.encode(decision).decode(), "cost": cost}
            row["state"] = "offered" if decision.offered else "withheld"
            connection.execute(sa.insert(coupon_offers).values(**row))
            return decision

        decision = self._metadata.change(decide)
        if decision is None:
            return None
        if decision.offered:
            self._lately[campaign.name, person] = self._clock()
        return self._event(campaign, event, code, decision, known, chosen)

    def _weigh(
        self,
        campaign: CouponDefinition,
        person: str,
        known: Mapping[str, Any],
        budget: BudgetPacing,
    ) -> CouponDecision:
        group = group_of(campaign, person)
        gain = self._gain_of(campaign, known)
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
            propensity=propensity_of(campaign) if covered[0] else 0.0,
            expires_at=self._clock() + int(campaign.valid_hours * _HOUR),
        )

    def _event(
        self,
        campaign: CouponDefinition,
        cause: Event,
        code: str,
        decision: CouponDecision,
        known: Mapping[str, Any],
        chosen: ChosenValue | None,
    ) -> Event:
        properties: dict[str, Any] = (
            {**campaign.offer, **decision.value} if decision.offered else {}
        )
        properties |= {
            "campaign": campaign.name,
            "group": decision.group,
            "cause": cause.event_id,
            "price": decision.price,
        }
        if decision.propensity is not None:
            properties[PROPENSITY] = decision.propensity
        if decision.gain is not None:
            properties["gain"] = decision.gain
        if campaign.features:
            properties["features"] = [number_or_0(known.get(name)) for name in campaign.features]
        if decision.offered:
            properties |= {"code": code, "expires_at": decision.expires_at, **decision.bandit}
            # As above read again after a kill, since the database holds no features of users.
            if decision.bandit and chosen is not None and chosen.features:
                properties[FEATURES] = chosen.features
        else:
            properties["why"] = decision.why
        return Event(
            event_id=OFFER_ID + code,
            type=OFFER if decision.offered else WITHHELD,
            timestamp=cause.timestamp,
            user_id=cause.user_id,
            device_id=cause.device_id,
            session_id=cause.session_id,
            recommendation_id=code if decision.bandit else None,
            properties=properties,
            context=cause.context,
        )

    def _sealed(self, decision: CouponDecision, code: str, person: str) -> CouponDecision:
        if self._keyring is None or not decision.offered:
            return decision
        key_id = self._keyring.current
        seal = self._seal(self._keyring, code, person, key_id)
        return msgspec.structs.replace(decision, key_id=key_id, seal=seal)

    @staticmethod
    def _seal(keyring: Keyring, code: str, person: str, key_id: int) -> str:
        return keyring.pseudonym(code + person, tenant="coupon", key_id=key_id).digest.hex()

    def _may_redeem(self, code: str, offered: CouponDecision, keys: Collection[str]) -> bool:
        """Return whether a code was offered to one of `keys`; True if that cannot be checked."""
        keyring = self._keyring
        if keyring is None or offered.key_id not in keyring.key_ids:
            return True
        seals = (self._seal(keyring, code, key, offered.key_id) for key in keys)
        return any(hmac.compare_digest(seal, offered.seal) for seal in seals)

    def _redeem(self, code: str, event: Event) -> None:
        """Book the real cost of a user's coupon; an unknown, used or expired one books nothing."""
        is_offer = coupon_offers.c.code == code
        discount, at = event.properties.get("discount"), event.timestamp
        keys = self._keys_of(event)

        def redeem(connection: sa.Connection) -> None:
            row = connection.execute(sa.select(coupon_offers).where(is_offer)).first()
            if row is None or row.state != "offered" or row.campaign not in self._campaigns:
                return
            offered = msgspec.json.decode(row.decision, type=CouponDecision)
            if at > row.expires_at or not self._may_redeem(code, offered, keys):
                return
            cost = row.cost
            if isinstance(discount, int | float) and 0 <= discount <= row.cost:
                cost = float(discount)
            self._refund(connection, row.campaign, row.cost - cost)
            update = sa.update(coupon_offers).where(is_offer)
            update = update.values(state="redeemed", cost=cost, decision=offered.unsealed())
            connection.execute(update)

        self._metadata.change(redeem)

    def _expire(self, now: int) -> None:
        """Refund the cost of coupons that were not redeemed in time to their budgets."""
        late = sa.and_(coupon_offers.c.state == "offered", coupon_offers.c.expires_at < now)
        if not self._metadata.fetch(sa.select(coupon_offers.c.code).where(late).limit(1)):
            return

        def expire(connection: sa.Connection) -> None:
            for row in connection.execute(sa.select(coupon_offers).where(late)).all():
                if row.campaign in self._campaigns:
                    self._refund(connection, row.campaign, row.cost)
                offered = msgspec.json.decode(row.decision, type=CouponDecision)
                update = sa.update(coupon_offers).where(coupon_offers.c.code == row.code)
                update = update.values(state="expired", cost=0.0, decision=offered.unsealed())
                connection.execute(update)

        self._metadata.change(expire)

    def _refund(self, connection: sa.Connection, name: str, amount: float) -> None:
        budget = _budget(connection, self._campaigns[name])
        budget.refund(min(amount, budget.spent))
        _store_budget(connection, name, budget)


def forget_offers(metadata: MetadataStore, before: int) -> int:
    """Delete decisions whose coupons expired before a time, and return their number.

    Their actions lie before the stored positions, so they are not decided again.
    """
    # Offered coupons stay until their cost is refunded to the budget.
    over = sa.and_(coupon_offers.c.expires_at < before, coupon_offers.c.state != "offered")
    if not metadata.fetch(sa.select(coupon_offers.c.code).where(over).limit(1)):
        return 0
    statement = sa.delete(coupon_offers).where(over)
    return int(metadata.change(lambda connection: connection.execute(statement).rowcount))


def code_of(campaign: str, action: str) -> str:
    """Return the code of the coupon of an action's `event_key`, always the same."""
    text = f"{len(campaign)}:{campaign}{action}".encode()
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def group_of(campaign: CouponDefinition, person: str) -> str:
    """Return `holdout`, `explore` or `targeted`, always the same for a user."""
    if Holdout(f"coupon:{campaign.name}", campaign.holdout).holds(person):
        return "holdout"
    explores = bucket(f"coupon-explore:{campaign.name}", person) < campaign.explore
    return "explore" if explores else "targeted"


def propensity_of(campaign: CouponDefinition) -> float:
    """Return the chance of a coupon among the users whose coupon only a hash decides."""
    explored = (1 - campaign.holdout) * campaign.explore
    return explored / (explored + campaign.holdout)


def _budget(connection: sa.Connection, campaign: CouponDefinition) -> BudgetPacing:
    """Read the present budget; a changed amount in the definition keeps the spent sum.

    An amount below the spent sum leaves nothing until enough was refunded.
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


def _store_budget(connection: sa.Connection, campaign: str, budget: BudgetPacing) -> None:
    is_budget = coupon_budgets.c.campaign == campaign
    statement: sa.Insert | sa.Update = sa.update(coupon_budgets).where(is_budget)
    if connection.execute(sa.select(coupon_budgets.c.campaign).where(is_budget)).first() is None:
        statement = sa.insert(coupon_budgets).values(campaign=campaign)
    connection.execute(statement.values(state=budget.to_bytes()))
