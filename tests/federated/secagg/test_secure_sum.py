"""Secure sums: exact, whoever falls silent and when; and what a lying server gets: nothing."""

from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.federated.secure_population import AUTHORITY, Wire, lead, member, session, stranger, wire

from tactful_federated.errors import SecureSumError
from tactful_federated.secagg.client import SecureSumDevice
from tactful_federated.secagg.messages import (
    Advert,
    Agreement,
    Agreements,
    Boxes,
    Masked,
    Opened,
    Roster,
    Session,
    Survivors,
    advert_text,
    decode,
    encode,
    enrol,
    own_mask,
    pair_mask,
    threshold_of,
)
from tactful_federated.secagg.server import SecureSumServer, sum_in_secret

ANSWERS = {1: Advert, 2: Boxes, 3: Masked, 4: Agreement, 5: Opened}


def sum_of(carried: Wire, devices: set[int] | frozenset[int]) -> list[int]:
    return [int(v) for v in np.sum([carried.vectors[i] for i in devices], axis=0)]


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.integers(1, 9), st.integers(1, 5)))
@example({})
@example({2: 1, 7: 1, 9: 1})
@example({2: 2, 7: 2, 9: 2})
@example({2: 3, 7: 3, 9: 3})
@example({2: 4, 7: 4})
@example({2: 5, 7: 5})
def test_a_round_gives_the_survivors_sum_or_nothing(silent_from: dict[int, int]) -> None:
    stages = {s: {d for d, at in silent_from.items() if at == s} for s in range(1, 6)}
    carried, of = wire(9, silent=stages)
    members = 9 - len(stages[1])
    dealt = members - len(stages[2])
    sent = dealt - len(stages[3])
    enough = members >= 3 and sent - len(stages[4]) - len(stages[5]) >= threshold_of(members)
    if enough:
        total = lead(carried, of)
        assert total.values.tolist() == sum_of(carried, total.devices)
        assert total.devices == set(range(1, 10)) - stages[1] - stages[2] - stages[3]
    else:
        with pytest.raises(SecureSumError):
            lead(carried, of)


def test_values_at_the_edge_of_the_field_come_back() -> None:
    carried, of = wire(3, size=2)
    carried.vectors = {1: np.array([2**31 - 1, -(2**31)]), 2: np.zeros(2, int), 3: np.zeros(2, int)}
    assert lead(carried, of).values.tolist() == [2**31 - 1, -(2**31)]


def test_the_server_receives_declared_messages_only() -> None:
    """All of it is read back and written again: there is room for nothing else."""
    carried, of = wire(6, size=50, silent={3: {4}})
    lead(carried, of)
    assert {stage for stage, _, _ in carried.received} == set(ANSWERS)
    for stage, _, data in carried.received:
        assert encode(msgspec.msgpack.decode(data, type=ANSWERS[stage])) == data
    masked = [decode(data, Masked).values for stage, _, data in carried.received if stage == 3]
    assert {len(values) for values in masked} == {200}


def test_what_the_server_receives_holds_no_update() -> None:
    """A vector of one repeated value is nowhere, and its masked form is like any other noise."""
    size = 40_000
    carried, of = wire(4, size=size)
    carried.vectors = {i: np.full(size, 123_456_789 + i) for i in carried.vectors}
    lead(carried, of)
    everything = b"".join(data for _, _, data in carried.received)
    for vector in carried.vectors.values():
        for width in ("<i4", ">i4", "<i8", ">i8", "<f4", "<f8"):
            assert vector[:1].astype(width).tobytes() * 2 not in everything
    for stage, _, data in carried.received:
        if stage == 3:
            counts = np.bincount(
                np.frombuffer(decode(data, Masked).values, np.uint8), minlength=256
            )
            chi_squared = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
            # Nine standard deviations: the masks are the devices' own, a false alarm once in 1e12.
            assert 255 - 9 * 22.6 < chi_squared < 255 + 9 * 22.6


def test_the_scan_for_updates_can_find_one() -> None:
    carried, of = wire(4, size=4)
    planted = np.full(4, 123_456_789).astype("<i4").tobytes()
    carried.answered = lambda stage, device, data: (
        encode(Masked(planted)) if stage == 3 and device == 2 else data
    )
    total = lead(carried, of)
    assert planted[:8] in b"".join(data for _, _, data in carried.received)
    # Without its masks nothing cancels.
    assert total.values.tolist() != sum_of(carried, total.devices)


def test_two_sessions_of_the_same_vectors_have_nothing_in_common() -> None:
    first, of = wire(3, size=500)
    lead(first, of)
    second, _ = wire(3, size=500)
    lead(second, of)
    a, b = (
        [np.frombuffer(decode(d, Masked).values, "<u4") for s, _, d in w.received if s == 3]
        for w in (first, second)
    )
    assert all((x == y).sum() <= 2 for x, y in zip(a, b, strict=True))


# A server that lies. Each of these must leave every device silent before anything is opened.


def _opened(carried: Wire) -> list[Opened]:
    return [decode(data, Opened) for stage, _, data in carried.received if stage == 5]


def test_contradictory_survivors_open_nothing() -> None:
    carried, of = wire(7)
    carried.asked = lambda stage, device, data: (
        encode(Survivors([1, 2, 3, 4, 5, 6])) if stage == 4 and device <= 3 else data
    )  # "7 dropped out"
    with pytest.raises(SecureSumError):
        lead(carried, of)
    assert _opened(carried) == []


@pytest.mark.parametrize("twice", ["repeated", "second set"])
def test_no_device_answers_about_two_sets_of_survivors(twice: str) -> None:
    carried, of = wire(5)
    survivors: list[bytes] = []

    def lie(stage: int, number: int, data: bytes) -> bytes:
        if stage == 5 and number == 1:
            other = encode(Survivors([1, 2, 3, 4])) if twice == "second set" else survivors[0]
            with pytest.raises(SecureSumError, match="in order, each once"):
                carried.devices[1].confirm(other)
            survivors.append(other)
        if stage == 4 and number == 1:
            survivors.append(data)
        return data

    carried.asked = lie
    total = lead(carried, of)
    assert (
        len(survivors) == 2 and len(_opened(carried)) == 4
    )  # device 1 ended its session; the others go on
    assert total.values.tolist() == sum_of(carried, total.devices)


def test_no_member_is_ever_opened_both_ways() -> None:
    carried, of = wire(9, silent={3: {1, 2}})
    lead(carried, of)
    for opened in _opened(carried):
        assert not set(opened.seeds) & set(opened.mask_keys)
        assert set(opened.mask_keys) == {1, 2}


@pytest.mark.parametrize(
    "named",
    [[1, 2, 3], [1, 1, 2, 3, 4], [2, 3, 4, 5], [1, 2, 3, 4, 99], []],
    ids=["too few", "repeated", "without the asked one", "a stranger", "nobody"],
)
def test_impossible_survivors_are_not_signed(named: list[int]) -> None:
    carried, of = wire(5)
    carried.asked = lambda stage, device, data: (
        encode(Survivors(named)) if stage == 4 and device == 1 else data
    )
    total = lead(carried, of)
    assert carried.refusals[0][:2] == (4, 1)
    assert total.values.tolist() == sum_of(carried, total.devices)


def test_too_few_agreements_open_nothing() -> None:
    carried, of = wire(6)
    agreed: dict[int, bytes] = {}

    def lie(stage: int, device: int, data: bytes) -> bytes:
        if stage == 5:
            agreed.update(decode(data, Agreements).signatures)
            if device == 1:
                few = dict(list(agreed.items())[: threshold_of(6) - 1])
                return encode(Agreements(few))
            if device == 2:
                return encode(Agreements({d: agreed[1] for d in agreed}))  # one for all
        return data

    carried.asked, carried.silent = lie, {5: {3}}
    with pytest.raises(SecureSumError):
        lead(carried, of)
    assert {d for s, d, _ in carried.refusals if s == 5} == {1, 2}


def _with_roster(change: Callable[[list[Advert]], list[Advert]]) -> Wire:
    carried, of = wire(6)
    carried.asked = lambda stage, device, data: (
        encode(Roster(change(list(decode(data, Roster).adverts))))
        if (stage, device) == (2, 1)
        else data
    )
    lead(carried, of)
    return carried


def _swap(adverts: list[Advert], **keys: bytes) -> list[Advert]:
    return [*adverts[:3], msgspec.structs.replace(adverts[3], **keys), *adverts[4:]]


def _put(adverts: list[Advert], device: SecureSumDevice) -> list[Advert]:
    return [*adverts[:3], decode(device.advertise(), Advert), *adverts[4:]]


def _twins(first: Advert, second: Advert) -> list[Advert]:
    """Two members with one identity, as an authority that certifies twice makes them."""
    identity = first.enrolment.identity
    enrolment = msgspec.structs.replace(second.enrolment, identity=identity)
    return [first, msgspec.structs.replace(second, enrolment=enrolment)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: _swap(a, mask_key=b"m" * 32), "signature of an advert is wrong"),
        (lambda a: _swap(a, box_key=b"b" * 32), "signature of an advert is wrong"),
        (lambda a: _swap(a, seed_digest=b"s" * 32), "signature of an advert is wrong"),
        (lambda a: _swap(a, mask_key=b"short"), "does not have 32 bytes"),
        (lambda a: _put(a, stranger(4, session(8))), "is not enrolled"),
        (lambda a: _put(a, member(4, session(8, nonce=b"o" * 32))), "of an advert is wrong"),
        (lambda a: [*a[:3], a[2], *a[4:]], "ascending order"),
        (lambda a: a[::-1], "ascending order"),
        (lambda a: a[1:], "with its own keys"),
        (lambda a: a[:2], "needs 3 devices"),
        (lambda a: [*a[:4], *_twins(a[4], a[5])], "have the same key"),
    ],
    ids=[
        *("mask", "box", "seed", "length", "stranger"),
        *("replay", "repeated", "order", "missing", "two", "one identity"),
    ],
)
def test_swapped_replayed_and_invented_keys_are_refused(
    change: Callable[[list[Advert]], list[Advert]], message: str
) -> None:
    carried = _with_roster(change)
    assert carried.refusals[0][:2] == (2, 1)
    assert message in carried.refusals[0][2]


def test_two_rosters_for_two_groups_open_nothing() -> None:
    """Each half hears of a roster of its own; what is sealed and signed then fits nowhere."""
    carried, of = wire(8)
    carried.asked = lambda stage, device, data: (
        encode(Roster(decode(data, Roster).adverts[1:])) if stage == 2 and device > 4 else data
    )
    with pytest.raises(SecureSumError):
        lead(carried, of)
    assert _opened(carried) == []


def test_a_session_is_claimed_before_anything_is_said() -> None:
    seen: set[bytes] = set()

    def claim(of: Session) -> None:
        if of.nonce in seen:
            raise SecureSumError("this session was joined before")
        seen.add(of.nonce)

    member(1, session(3), claim)
    with pytest.raises(SecureSumError, match="joined before"):
        member(1, session(3), claim)
    member(1, session(3, nonce=b"m" * 32), claim)


# Devices that lie or break.


@pytest.mark.parametrize("stage", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("rubbish", [b"", b"\xff" * 40, b"\x91\xc0", encode(Survivors([1]))])
def test_malformed_answers_count_as_none(stage: int, rubbish: bytes) -> None:
    carried, of = wire(5)
    carried.answered = lambda s, device, data: rubbish if (s, device) == (stage, 2) else data
    total = lead(carried, of)
    assert total.devices == ({1, 3, 4, 5} if stage <= 3 else {1, 2, 3, 4, 5})
    assert total.values.tolist() == sum_of(carried, total.devices)


def _spoil_shares(data: bytes) -> bytes:
    opened = decode(data, Opened)
    return encode(Opened({d: b"\0" * 33 for d in opened.seeds}, opened.mask_keys))


@pytest.mark.parametrize(("count", "liars"), [(6, {6}), (7, {1}), (9, {3}), (12, {1, 12})])
def test_liars_about_shares_are_named_and_the_sum_goes_on(count: int, liars: set[int]) -> None:
    """One wrong share voided the round, and its sender was not identified."""
    carried, of = wire(count)
    carried.answered = lambda stage, device, data: (
        _spoil_shares(data) if stage == 5 and device in liars else data
    )
    server = SecureSumServer(of, AUTHORITY.public_key())
    total = sum_in_secret(server, dict.fromkeys(carried.devices, encode(of)), carried.ask)
    assert total.values.tolist() == sum_of(carried, set(range(1, count + 1)))
    assert server.liars == liars


def test_a_liar_about_the_mask_keys_of_silent_devices_is_corrected() -> None:
    def lie(data: bytes) -> bytes:
        opened = decode(data, Opened)
        return encode(Opened(opened.seeds, {d: b"\1" * 33 for d in opened.mask_keys}))

    carried, of = wire(9, silent={3: {9}})
    carried.answered = lambda s, device, data: lie(data) if (s, device) == (5, 1) else data
    server = SecureSumServer(of, AUTHORITY.public_key())
    total = sum_in_secret(server, dict.fromkeys(carried.devices, encode(of)), carried.ask)
    assert total.values.tolist() == sum_of(carried, set(range(1, 9)))
    # Of one wrong share it is not certain whether holder or dealer lied.
    assert server.liars == frozenset()


def test_more_liars_void_the_sum_and_no_other_device_is_named() -> None:
    carried, of = wire(9)
    carried.answered = lambda stage, device, data: (
        _spoil_shares(data) if stage == 5 and device <= 3 else data
    )
    server = SecureSumServer(of, AUTHORITY.public_key())
    with pytest.raises(SecureSumError, match="commitment of its device"):
        sum_in_secret(server, dict.fromkeys(carried.devices, encode(of)), carried.ask)
    assert server.liars == frozenset()


def test_a_dealer_of_wrong_shares_is_named() -> None:
    carried, of = wire(7)

    def spoil(stage: int, device: int, data: bytes) -> bytes:
        if (stage, device) == (2, 4):
            carried.devices[4]._seed = bytes(32)  # which is not what it committed to
        return data

    carried.asked = spoil
    server = SecureSumServer(of, AUTHORITY.public_key())
    with pytest.raises(SecureSumError, match="commitment of its device"):
        sum_in_secret(server, dict.fromkeys(carried.devices, encode(of)), carried.ask)
    assert server.liars == {4}


def test_a_dealer_of_boxes_that_cannot_be_opened_is_named() -> None:
    def rubbish(data: bytes) -> bytes:
        return encode(Boxes({d: b"x" * len(b) for d, b in decode(data, Boxes).sealed.items()}))

    carried, of = wire(7)
    carried.answered = lambda s, device, data: rubbish(data) if (s, device) == (2, 4) else data
    server = SecureSumServer(of, AUTHORITY.public_key())
    with pytest.raises(SecureSumError, match="are needed"):
        sum_in_secret(server, dict.fromkeys(carried.devices, encode(of)), carried.ask)
    assert server.liars == {4}


@settings(max_examples=20)
@given(st.integers(6, 13), st.data())
def test_no_honest_device_is_named(count: int, data: st.DataObject) -> None:
    """For all wrong shares and silences of a sixth: the sum is right, or nobody else is named."""
    liars = data.draw(st.sets(st.integers(1, count), max_size=max(1, count // 6)))
    silent = data.draw(st.sets(st.integers(1, count), max_size=count // 4))
    about = {liar: data.draw(st.sets(st.integers(1, count))) for liar in sorted(liars)}

    def lie(stage: int, device: int, answer: bytes) -> bytes:
        if stage == 2 and device in liars:
            sealed = decode(answer, Boxes).sealed
            return encode(Boxes({d: b"x" if d in about[device] else b for d, b in sealed.items()}))
        if stage == 5 and device in liars:
            opened = decode(answer, Opened)
            seeds = {d: bytes(33) if d in about[device] else b for d, b in opened.seeds.items()}
            return encode(Opened(seeds, opened.mask_keys))
        return answer

    carried, of = wire(count, silent={5: silent})
    carried.answered = lie
    server = SecureSumServer(of, AUTHORITY.public_key())
    try:
        total = sum_in_secret(server, dict.fromkeys(carried.devices, encode(of)), carried.ask)
        assert total.values.tolist() == sum_of(carried, total.devices)
    except SecureSumError:
        assert silent or liars
    assert server.liars <= liars


@pytest.mark.parametrize("keys", ["small order", "one key for two", "one identity for two"])
def test_keys_that_devices_refuse_cost_only_their_owners(keys: str) -> None:
    """In a roster they would end the round for everybody."""
    carried, of = wire(8)
    pair = [carried.devices[1], carried.devices[2]]
    if keys == "one key for two":
        pair[1]._mask_key = pair[0]._mask_key
        total = lead(carried, of)
        assert total.devices == set(range(3, 9))
        return
    if keys == "one identity for two":  # enrolled under two numbers
        pair[1]._identity, public = pair[0]._identity, pair[0]._identity.public_key()
        pair[1]._enrolment = enrol(AUTHORITY, 2, public)
        assert lead(carried, of).devices == set(range(3, 9))
        return
    carried.answered = lambda stage, device, data: (
        encode(_signed(pair[0], of, mask_key=bytes(32))) if (stage, device) == (1, 1) else data
    )
    assert lead(carried, of).devices == set(range(2, 9))


def _signed(device: SecureSumDevice, of: Session, **changes: bytes) -> Advert:
    advert = msgspec.structs.replace(device._advert, **changes)
    signature = device._identity.sign(advert_text(of, advert))
    return msgspec.structs.replace(advert, signature=signature)


def test_a_device_cannot_speak_for_another() -> None:
    carried, of = wire(5)
    first: dict[int, bytes] = {}
    carried.answered = lambda stage, device, data: (
        first.setdefault(1, data) if stage == 1 and device <= 2 else data
    )
    assert lead(carried, of).devices == {1, 3, 4, 5}


def test_answers_that_nobody_was_asked_for_count_as_none() -> None:
    carried, of = wire(5)

    def ask(stage: int, questions: Mapping[int, bytes]) -> dict[int, bytes]:
        answers = carried.ask(stage, questions)
        if stage == 2:
            answers[99] = encode(Boxes({number: b"box" for number in range(1, 6)}))
        return answers

    server = SecureSumServer(of, AUTHORITY.public_key())
    total = sum_in_secret(server, dict.fromkeys(carried.devices, encode(of)), ask)
    assert total.values.tolist() == sum_of(carried, set(range(1, 6)))


def test_boxes_that_cannot_be_opened_cost_only_their_share() -> None:
    carried, of = wire(6)

    def spoilt(data: bytes) -> bytes:
        sealed = decode(data, Boxes).sealed
        return encode(Boxes({**sealed, 4: b"x" * len(sealed[4])}))

    carried.answered = lambda s, device, data: spoilt(data) if (s, device) == (2, 1) else data
    total = lead(carried, of)
    assert total.values.tolist() == sum_of(carried, set(range(1, 7)))


def test_vectors_that_do_not_fit_are_refused_on_the_device() -> None:
    carried, of = wire(4)
    carried.vectors = {**carried.vectors, 2: np.zeros(9, int), 3: np.zeros(8)}
    with pytest.raises(SecureSumError):
        lead(carried, of)
    assert {d for s, d, _ in carried.refusals if s == 3} == {2, 3}
    with pytest.raises(SecureSumError, match="at least one value"):
        member(1, msgspec.structs.replace(of, size=0))


def test_masks_are_of_256_bits_and_bound_to_the_session() -> None:
    """flwr folds its keys to 32 bits, so two keys may give one mask and all can be tried."""
    one, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    key = other.public_key().public_bytes_raw()
    mask = pair_mask(one, key, b"a" * 32, 64)
    back = pair_mask(other, one.public_key().public_bytes_raw(), b"a" * 32, 64)
    assert (mask == back).all()
    assert (mask != pair_mask(one, key, b"b" * 32, 64)).any()
    # Seeds that agree when folded by exclusive or, or in their first 32 bits, differ here.
    seed = bytes(range(32))
    folded_alike = bytes([*seed[4:8], *seed[:4], *seed[8:]])
    masks = [own_mask(s, b"a" * 32, 64) for s in (seed, folded_alike, seed[:4] + bytes(28))]
    assert all((masks[0] != m).any() for m in masks[1:])
