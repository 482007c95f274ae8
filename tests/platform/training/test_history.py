"""The log as columns, against a reading by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.shop import entries, make_shop, write_log

from tactful.schemas.interactions import is_interaction
from tactful.training import history
from tactful.training.history import History
from tactful_streaming.contract.log_entries import Event, Item, encode_entry
from tactful_streaming.log.embedded_log import EmbeddedLog

DAY = 86_400_000


def take(number: int, **fields: object) -> Event:
    return Event(**{"event_id": str(number), "type": "add_to_cart", "timestamp": number} | fields)  # type: ignore[arg-type]


def read(path: Path, *what: Event | Item | bytes) -> History:
    with EmbeddedLog(path / "log", durability="process") as log:
        log.append([it if isinstance(it, bytes) else encode_entry(it) for it in what])
        return History.read(log)


def test_a_shop_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_CHUNK", 100)
    shop = make_shop(1, people=10, days=20, guests=True)
    log = write_log(tmp_path / "log", entries(shop))
    heard: list[tuple[int, int]] = []
    found = History.read(log, progress=lambda done, total: heard.append((done, total)))
    log.close()
    kinds = [shop.kinds[number] for number in shop.kind]
    taken = [n for n in range(len(shop)) if is_interaction(kinds[n]) and shop.item[n]]
    upserts = len(shop.items) + len(shop.users)
    assert [found.item_ids[row] for row in found.item] == [shop.item[n] for n in taken]
    assert [found.types[row] for row in found.kind] == [kinds[n] for n in taken]
    assert {*found.types} == {"view", "add_to_cart"}
    assert found.timestamp.tolist() == [shop.timestamp[n] for n in taken]
    assert found.offset.tolist() == [upserts + n for n in taken]
    assert [found.session_ids[row] for row in found.session] == [shop.session[n] for n in taken]
    assert [found.subjects[row] for row in found.session] == [
        f"device:{shop.person[n]}" if shop.person[n].startswith("guest-") else shop.person[n]
        for n in taken
    ]
    assert heard[-1] == (log.end, log.end)
    assert len(heard) == -(-log.end // 100)
    assert found.ordered


def test_what_is_no_event_about_an_item_of_the_catalogue_is_left_out(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        take(1, user_id="u", item_id="a"),
        b"no entry at all",
        take(2, user_id="u", item_id="unknown"),
        take(3, user_id="u", item_id="a", type="view"),
        take(4, user_id="u"),
        take(4, user_id="u", item_id="a", type="remove_from_cart"),
        take(5, user_id="u", item_id="a", type="purchase"),
        Item(item_id="a", timestamp=9),
        Item(item_id="a", timestamp=10, price=2.0),
    )
    assert found.item_ids == ("a",)
    assert found.offset.tolist() == [0, 3, 6], "an item may be described after it was first taken"


def test_without_a_visit_id_a_pause_ends_a_visit(tmp_path: Path) -> None:
    pause = 30 * 60_000
    found = read(
        tmp_path,
        Item(item_id="a", timestamp=0),
        take(1, user_id="u", item_id="a"),
        take(2, device_id="u", item_id="a"),
        take(pause, user_id="u", item_id="a"),
        take(2 * pause, user_id="u", item_id="a"),
        take(2 * pause - 9, user_id="u", item_id="a"),
        take(3 * pause + 1, user_id="u", item_id="a"),
        take(3 * pause + 2, user_id="u", item_id="a", session_id="s"),
    )
    assert found.session.tolist() == [0, 1, 0, 0, 0, 2, 3]
    assert found.subjects == ("u", "device:u", "u", "u")
    assert found.session_ids == (None, None, None, "s")


def test_a_visit_is_of_one_person(tmp_path: Path) -> None:
    """Two people with one visit id have two visits; a visit may name device, user or both."""
    found = read(
        tmp_path,
        Item(item_id="a", timestamp=0),
        take(1, device_id="d", item_id="a", session_id="s"),
        take(2, user_id="bob", item_id="a", session_id="s"),
        take(3, user_id="alice", device_id="d", item_id="a", session_id="s"),
        take(4, user_id="alice", item_id="a", session_id="s", type="purchase"),
        take(5, user_id="alice", item_id="a", session_id="t"),
    )
    assert found.session.tolist() == [0, 1, 0, 0, 2]
    assert found.subjects == ("device:d", "bob", "alice")


def test_a_stray_date_in_the_future_does_not_count(tmp_path: Path) -> None:
    events = [take(number, user_id="u", item_id="a") for number in range(100)]
    late = take(500 * DAY, user_id="u", item_id="a", event_id="late")
    received = take(500 * DAY, user_id="u", item_id="a", event_id="fast", received_at=50)
    found = read(tmp_path, Item(item_id="a", timestamp=0), *events, late, received)
    assert found.until == 100
    assert len(found.item) == 101, "an event received before its time counts as of its receipt"


def test_a_funnel_is_one_visit_to_an_item(tmp_path: Path) -> None:
    """Steps with an item in a visit count once for recall, returns of the first kind again."""
    steps = ["a view", "a view", "b view", "b add_to_cart", "a view", "b purchase", "a purchase"]
    events = [
        take(number, user_id="u", session_id="s", item_id=step[0], type=step[2:])
        for number, step in enumerate(steps)
    ]
    found = read(tmp_path, *(Item(item_id=it, timestamp=0) for it in "ab"), *events)
    assert found.interactions().timestamp.tolist() == [0, 2, 4]
    assert found.interactions(before=5).timestamp.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ({"view": 5_000, "click": 1_000, "purchase": 999}, "click"),
        ({"view": 5_000, "click": 2_000, "purchase": 1_000}, "purchase"),
        ({"view": 900, "x.play": 300, "click": 400}, "x.play"),
        ({"view": 30, "rating": 12}, "view"),
        ({"view": 30, "rating": 30}, "rating"),
        ({}, "purchase"),
    ],
)
def test_the_label_is_the_strongest_type_with_enough_data(
    counts: dict[str, int], wanted: str, tmp_path: Path
) -> None:
    """Each visit has three events of its type."""
    events = [
        take(
            number,
            user_id="u",
            session_id=f"{type_}{number // 3}",
            item_id="a",
            type=type_,
            event_id=f"{type_}{number}",
        )
        for type_, count in counts.items()
        for number in range(count)
    ]
    assert read(tmp_path, Item(item_id="a", timestamp=0), *events).label() == wanted


def test_an_empty_log_and_receipts_have_no_order(tmp_path: Path) -> None:
    shop = entries(make_shop(2, people=5, days=10, tied=True))
    with write_log(tmp_path / "tied", shop) as log:
        assert not History.read(log).ordered
    found = read(tmp_path)
    assert found.item.shape == found.timestamp.shape == (0,)
    assert list(found.visits(0)) == []
    assert not found.ordered


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), max_size=40),
    st.integers(0, 30),
)
@settings(max_examples=60)
def test_visits_are_those_that_began_late_enough(rows: list[tuple[int, int]], since: int) -> None:
    session, timestamp = np.array(rows, np.int64).reshape(-1, 2).T
    found = History(
        item_ids=("a",),
        updates=(),
        item=np.zeros(len(rows), np.int64),
        session=session,
        timestamp=timestamp,
        offset=np.arange(len(rows)),
        kind=np.zeros(len(rows), np.int64),
        types=("view",),
        session_ids=tuple("01234"),
        subjects=("u",) * 5,
    )
    visits = [visit.tolist() for visit in found.visits(since)]
    assert visits == [
        numbers
        for visit in range(5)
        if (numbers := [n for n, row in enumerate(rows) if row[0] == visit])
        and min(rows[n][1] for n in numbers) >= since
    ]


def test_descriptions_are_the_latest_of_before(tmp_path: Path) -> None:
    tea, mug = (Item(item_id=it, timestamp=0, title="old") for it in ("tea", "mug"))
    found = read(tmp_path, tea, mug, Item(item_id="tea", timestamp=1, title="new"))
    titles = [
        [None if item is None else item.title for item in found.descriptions(before=before)]
        for before in (0, 1, 2, 3, None)
    ]
    assert titles == [[None, None], ["old", None], ["old", "old"], ["new", "old"], ["new", "old"]]


def test_people_of_pairs_are_users_and_unshared_devices(tmp_path: Path) -> None:
    """A device counts as its user; one of two users counts as nobody, and one of none as itself."""
    logins = [("ada", "phone"), ("ada", "tablet"), ("bob", "tablet")]
    visits = [{"user_id": "ada"}, *({"device_id": it} for it in ("phone", "tablet", "lonely"))]
    found = read(
        tmp_path,
        Item(item_id="a", timestamp=0),
        Item(item_id="b", timestamp=0),
        *(
            take(number, type="x.login", user_id=user, device_id=device)
            for number, (user, device) in enumerate(logins)
        ),
        *(
            take(10 + 2 * number + place, item_id=item, session_id=f"s{number}", **who)
            for number, who in enumerate(visits)
            for place, item in enumerate("ab")
        ),
    )
    pairs = found.common_pairs(2)
    assert pairs.people.tolist() == [2, 2], "Ada, and the lonely device"
    assert pairs.together.people.tolist() == [2, 2]
    assert pairs.following_of(0, 2).rows.tolist() == [1]
    assert not len(found.common_pairs(3).following_of(0, 3).rows)
