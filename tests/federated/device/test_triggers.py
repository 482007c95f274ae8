"""When a device acts on a foresight, how often, for whom, and what it tells a server."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.federated.device.test_intent import VOCABULARY, Phone, favouring
from tests.federated.trigger_vectors import REFUSED
from tests.federated.wire_terms import INVITATION

from tactful_bandits.assignment.eligibility import Holdout
from tactful_federated import Foresight, Trigger, TriggerLimits
from tactful_federated.device.calibration import Calibration
from tactful_federated.device.event_store import Telling
from tactful_federated.device.firing import Moment, TriggerState, decide
from tactful_federated.device.intent import FIRED, DeviceIntent
from tactful_federated.device.pace import DAY_S, public_pace, steps_within
from tactful_federated.device.personalise import personalise
from tactful_federated.device.triggers import WITHHELD, Likely, read_triggers
from tactful_federated.errors import ConsentError, SettingsError
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.settings import TrainerSettings

NOON = 1_000 * DAY_S + DAY_S / 2
ROOT = Path(__file__).resolve().parents[3]
ALWAYS = TriggerLimits(most_per_day=1_000, gap_minutes=0, quiet=None)


class Foreteller(Phone):
    """A device at noon whose model expects one category."""

    def __init__(self, directory: Path, expects: str = "c1", models: str = "models") -> None:
        super().__init__(directory, models=models)
        self.time, self.version = NOON, 0
        self.acts: list[Foresight] = []
        self.told: list[dict[str, Any]] = []
        self.expect(expects)

    def expect(self, category: str) -> None:
        self.version += 1
        self.take(favouring(category), self.version)

    def intent(self) -> DeviceIntent:
        return DeviceIntent(
            self.directory,
            self.events,
            self.slot,
            VOCABULARY,
            now=lambda: self.time,
            part=None,
            zone=UTC,
        )

    def fire(
        self,
        *triggers: Trigger,
        limits: TriggerLimits = ALWAYS,
        taken: Callable[[], bool] = lambda: True,
        user_id: str | None = "ada",
    ) -> list[str]:
        def tell(event: dict[str, Any]) -> bool:
            self.told.append(event)
            return taken()

        fired = self.intent().fire(
            triggers, act=self.acts.append, tell=tell, user_id=user_id, limits=limits
        )
        return [foresight.trigger for foresight in fired]


SOON = Trigger("soon", ("c1", "c2"), steps=2, most_per_day=100)


def test_one_foresight_fires_once_also_after_a_restart(tmp_path: Path) -> None:
    phone = Foreteller(tmp_path)
    never = Trigger("never", ("c5",), threshold=1.0)
    assert phone.fire(SOON, never) == ["soon"]
    assert [act.category for act in phone.acts] == ["c1"] and phone.acts[0].probability > 0.99
    assert phone.fire(SOON, never) == []  # a new object reads the file
    assert phone.fire(never) == phone.fire(SOON) == []
    phone.expect("c3")
    assert phone.fire(SOON) == []  # low, but nothing came and no step went by
    phone.expect("c2")
    assert phone.fire(SOON) == []  # still the same two steps ahead
    phone.events.add(["c4", "c5"])  # they are over, and it fell in between
    assert phone.fire(SOON) == ["soon"]
    phone.events.add(["c2"])  # it came: the next one is another
    assert phone.fire(SOON) == ["soon"]
    phone.events.add(["c4", "c5"])  # it did not come, and is as likely as before
    assert phone.fire(SOON) == []
    assert len({act.id for act in phone.acts}) == 3


@pytest.mark.slow
def test_a_certain_next_step_fires_before_it_comes(tmp_path: Path) -> None:
    """A model of a planted cycle: the trigger leads by one step, and never fires beside it."""
    phone = Foreteller(tmp_path)
    cycle = [[f"c{number % 4}"] for number in range(160)]
    shared = IntentPredictor(IntentModel(VOCABULARY.size, seed=1).vector(), VOCABULARY.size)
    learnt = TrainerSettings(epochs=30, learning_rate=1.0, held_out=0.25, context=8)
    model = personalise(shared, cycle, VOCABULARY, part="all", settings=learnt)
    phone.take(model.predictor.weights, 2)
    phone.events.import_visits(cycle)
    trigger = Trigger("tea", ("c2",), steps=1, most_per_day=1_000)
    fired_at = []
    for number in range(160, 176):
        phone.time += 60
        if phone.fire(trigger):
            fired_at.append(number)
        phone.events.add([f"c{number % 4}"])
    assert [number % 4 for number in fired_at] == [2, 2, 2, 2]  # before that visit is stored


def test_caps_gaps_and_quiet_time_hold_also_after_a_restart(tmp_path: Path) -> None:
    phone = Foreteller(tmp_path)
    limits = TriggerLimits(most_per_day=2, gap_minutes=30, quiet=(22, 8))
    offers = [Trigger(f"o{n}", ("c1",), action="offer") for n in range(4)]
    loads = Trigger("load", ("c1",), most_per_day=1)
    assert phone.fire(*offers, loads, limits=limits) == ["o0", "load"]
    assert phone.fire(*offers, loads, limits=limits) == []
    phone.time += 31 * 60
    assert phone.fire(*offers, loads, limits=limits) == ["o1"]
    phone.time += 31 * 60
    assert phone.fire(*offers, limits=limits) == []  # two a day
    phone.time = NOON + DAY_S / 2 + 60  # the next day, but at night
    assert phone.fire(*offers, loads, limits=limits) == []
    phone.events.add(["c1"])
    assert phone.fire(*offers, loads, limits=limits) == ["load"]  # nobody notices it
    phone.time += 8 * 3_600
    assert phone.fire(*offers, limits=limits) == ["o0"]
    phone.time -= 3 * DAY_S  # a clock that goes back empties no count
    assert phone.fire(*offers, limits=limits) == ["o1"]
    assert phone.fire(*offers, limits=limits) == []


def test_a_clock_that_was_far_ahead_blocks_no_later_day() -> None:
    limits = TriggerLimits(most_per_day=2, gap_minutes=0, quiet=None)
    state, far = TriggerState(), 3_000

    def fires(name: str, day: int, likely: float = 1.0) -> bool:
        nonlocal state
        trigger = Trigger(name, ("c1",), action="offer", days=7)
        moment = Moment(day * DAY_S, day, 12.0, [], 0)
        state, fires = decide(state, trigger, Likely(likely, "c1"), moment, limits)
        return fires

    assert fires("a", 1)
    assert fires("b", far) and fires("c", far) and not fires("d", far)
    assert not fires("d", 1)  # set right: the actions of this day count
    assert not fires("d", far) and not fires("d", 1)  # and wrong once more
    assert fires("d", 2)  # the next day is free
    assert not fires("b", 2, likely=0.0)  # wrong, but its seven days begin now
    assert not fires("b", 8)
    assert fires("b", 9)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=60))
def test_no_day_has_more_actions_than_its_caps_with_a_wrong_clock(
    steps: list[tuple[int, int]],
) -> None:
    """Days may come in any order, and again."""
    limits = TriggerLimits(most_per_day=4, gap_minutes=0, quiet=None)
    state, fired, seen = TriggerState(), list[tuple[int, int]](), set[int]()
    for number, day in steps:
        trigger = Trigger(f"t{number}", ("c1",), action="remind", most_per_day=2)
        moment = Moment(day * DAY_S, day, 12.0, [], 0)
        state, fires = decide(state, trigger, Likely(1.0, "c1"), moment, limits)
        state = msgspec.structs.replace(state, open={})
        state = msgspec.json.decode(msgspec.json.encode(state), type=TriggerState)
        if day > max(seen, default=-1):
            assert fires  # a new day owes nothing to those before
        seen.add(day)
        fired += [(number, day)] * fires
    for day in seen:
        assert sum(on == day for _, on in fired) <= 4
        assert all(fired.count((number, day)) <= 2 for number in range(5))


MOST_25 = TriggerLimits(most_per_day=25, gap_minutes=0, quiet=None)


def fire_all(directory: Path, models: str) -> list[str]:
    """Fire many offers one after the other; the actions taken."""
    phone = Foreteller(directory, models=models)
    for number in range(30):
        phone.fire(Trigger(f"o{number}", ("c1",), action="offer"), limits=MOST_25)
    return [act.trigger for act in phone.acts]


@pytest.mark.slow
def test_threads_share_the_caps(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(fire_all, [tmp_path] * 2, ["one", "other"])
    assert len(one) + len(other) == len({*one, *other}) == 25


@pytest.mark.slow  # two processes import torch
def test_processes_share_the_caps(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from {__name__} import fire_all
print(*fire_all(Path({str(tmp_path)!r}), sys.argv[1]))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, name], stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        for name in ("one", "other")
    ]
    acts = " ".join(process.communicate()[0] for process in processes).split()
    assert all(process.returncode == 0 for process in processes)
    assert len(acts) == len({*acts}) == 25


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.floats(0, 1), st.floats(0, 9)), max_size=80),
    st.integers(1, 3),
    st.integers(0, 4),
)
def test_no_day_has_more_actions_than_its_caps(
    steps: list[tuple[int, float, float]], each: int, most: int
) -> None:
    limits = TriggerLimits(most_per_day=most, gap_minutes=60, quiet=(22, 8))
    triggers = [
        Trigger(f"t{n}", ("c1",), action="remind", most_per_day=each, steps=1) for n in range(8)
    ]
    state, now, fired = TriggerState(), 0.0, list[tuple[int, int, float]]()
    for number, probability, hours in steps:
        now += 3_600 * hours
        moment = Moment(now, int(now // DAY_S), now % DAY_S / 3_600, [], 0)
        likely = Likely(probability, "c1")
        state, fires = decide(state, triggers[number], likely, moment, limits)
        state = msgspec.json.decode(msgspec.json.encode(state), type=TriggerState)
        if fires:
            fired.append((number, moment.day, now))
            assert probability >= 0.5 and 8 <= moment.hour < 22
    for day in {day for _, day, _ in fired}:
        numbers = [number for number, on, _ in fired if on == day]
        assert len(numbers) <= most
        assert all(numbers.count(number) <= each for number in numbers)
    times = [at for _, _, at in fired]
    assert all(later - before >= 3_600 for before, later in pairwise(times))


@given(st.text(max_size=12), st.text(min_size=1, max_size=12), st.floats(0.01, 0.99))
def test_device_and_server_hold_out_the_same_users(unit: str, name: str, share: float) -> None:
    name = f"coupon:{name.encode('ascii', 'ignore').decode().strip() or 'tea'}"
    if name.isprintable():
        trigger = Trigger("t", ("c1",), holdout=share, holdout_name=name)
        assert trigger.holds_out(unit) == Holdout(name, share).holds(unit)


def test_held_out_users_get_no_action_but_are_logged(tmp_path: Path) -> None:
    phone = Foreteller(tmp_path)
    phone.events.allow_telling("group")
    trigger = Trigger("tea", ("c1",), action="offer", group="drinks", holdout=0.5, most_per_day=99)
    held = next(name for name in map(str, range(99)) if trigger.holds_out(name))
    free = next(name for name in map(str, range(99)) if not trigger.holds_out(name))
    assert phone.fire(trigger, user_id=held) == ["tea"] and phone.acts == []
    phone.events.add(["c1"])
    assert phone.fire(trigger, user_id=free) == ["tea"] and len(phone.acts) == 1
    assert [event["type"] for event in phone.told] == [WITHHELD, "x.about_to_offer"]
    assert [event["user_id"] for event in phone.told] == [held, free]
    phone.events.add(["c1"])
    one = phone.fire(trigger, user_id=None), len(phone.acts)
    phone.events.add(["c1"])
    assert "user_id" not in phone.told[-1]
    assert (phone.fire(trigger, user_id=None), 2 * len(phone.acts) - one[1]) in (
        (one[0], one[1]),
        (one[0], one[1] + 2),
    )


@pytest.mark.parametrize("telling", ["nothing", "moment", "group", "category"])
def test_a_server_is_told_no_more_than_the_user_allows(tmp_path: Path, telling: Telling) -> None:
    phone = Foreteller(tmp_path)
    payload = {"percent": 10}
    trigger = Trigger("tea", ("c1",), 2, action="offer", group="drinks", payload=payload)
    assert phone.events.telling == "nothing"
    phone.events.allow_telling(telling)
    assert phone.fire(trigger) == ["tea"] and phone.acts[0].payload == payload
    more: dict[str, dict[str, object]] = {
        "moment": {},
        "group": {"group": "drinks"},
        "category": {"group": "drinks", "trigger": "tea", "category": "c1", "steps": 2},
    }
    if telling == "nothing":
        assert phone.told == []
        return
    (event,) = phone.told
    assert event["type"] == "x.about_to_offer" and event["timestamp"] == NOON * 1000
    assert event["event_id"] == f"foresight:{phone.acts[0].id}" and event["user_id"] == "ada"
    assert event["properties"] == {"probability": 0.9} | more[telling]
    assert phone.fire(trigger) == [] and len(phone.told) == 1


def test_an_event_waits_for_the_server_under_one_id(tmp_path: Path) -> None:
    phone = Foreteller(tmp_path)
    phone.events.allow_telling("category")
    trigger = Trigger("tea", ("c1",), group="drinks")
    assert phone.fire(trigger, taken=lambda: False) == ["tea"]
    assert phone.fire(trigger, taken=lambda: False) == [] and len(phone.acts) == 1
    phone.events.allow_telling("group")  # narrowed while it waits
    assert phone.fire(trigger) == []
    assert phone.fire(trigger) == []
    assert len(phone.told) == 3 and len({event["event_id"] for event in phone.told}) == 1
    assert phone.told[-1]["properties"] == {"probability": 0.9, "group": "drinks"}
    phone.events.add(["c1"])
    assert phone.fire(trigger, taken=lambda: False) == ["tea"]
    phone.events.allow_telling("nothing")
    assert phone.fire(trigger) == [] and len(phone.told) == 4
    phone.events.allow_telling("category")
    assert phone.fire(trigger) == [] and len(phone.told) == 4  # what waited is gone


def test_withdrawn_consent_ends_it(tmp_path: Path) -> None:
    phone = Foreteller(tmp_path)
    phone.events.allow_telling("category")
    assert phone.fire(SOON, taken=lambda: False) == ["soon"]
    phone.events.withdraw_consent()
    assert phone.fire(SOON) == [] and not (tmp_path / FIRED).exists()
    assert len(phone.told) == 1 and len(phone.acts) == 1
    with pytest.raises(ConsentError):
        phone.events.allow_telling("moment")
    phone.events.give_consent()
    assert phone.events.telling == "nothing"  # a consent of its own
    with pytest.raises(SettingsError, match="telling is 'all'"):
        phone.events.allow_telling("all")  # type: ignore[arg-type]


def test_a_new_consent_tells_nothing_of_before(tmp_path: Path) -> None:
    phone = Foreteller(tmp_path)
    phone.events.allow_telling("category")
    offer = Trigger("offer", ("c1",), action="offer", most_per_day=2)
    assert phone.fire(offer, taken=lambda: False) == ["offer"]
    phone.events.withdraw_consent()  # no call in between notices it
    phone.events.give_consent()
    phone.events.allow_telling("category")
    before = phone.told.copy()
    assert phone.fire(offer) == ["offer"]  # of visits that are gone, none is open
    assert len(phone.told) == 2 and phone.told[1]["event_id"] != before[0]["event_id"]
    phone.events.wipe()
    assert phone.fire(offer) == []  # limits of the day stay


def test_an_action_that_fails_is_not_repeated_and_its_event_is_kept(tmp_path: Path) -> None:
    """As after a kill: the state is written before the action."""
    phone = Foreteller(tmp_path)
    phone.events.allow_telling("moment")

    def act(foresight: Foresight) -> None:
        raise OSError("no page to load")

    with pytest.raises(OSError, match="no page"):
        phone.intent().fire([SOON], act=act, tell=lambda event: True, limits=ALWAYS)
    assert phone.fire(SOON) == [] and not phone.acts and len(phone.told) == 1


def test_a_call_that_cannot_tell_keeps_what_waits(tmp_path: Path) -> None:
    phone = Foreteller(tmp_path)
    phone.events.allow_telling("moment")
    assert phone.fire(SOON, taken=lambda: False) == ["soon"]
    assert phone.intent().fire([SOON]) == []
    assert phone.fire(SOON) == [] and len(phone.told) == 2


@pytest.mark.parametrize("content", [b'["soon"]', b"\xff\x00", b"{"])
def test_a_damaged_file_frees_no_cap(tmp_path: Path, content: bytes) -> None:
    phone = Foreteller(tmp_path)
    (tmp_path / FIRED).write_bytes(content)
    offer = Trigger("offer", ("c1",), action="offer")
    limits = TriggerLimits(quiet=None)
    assert phone.fire(offer, limits=limits) == []
    phone.time += DAY_S
    assert phone.fire(offer, limits=limits) == ["offer"]


def test_a_calibration_decides(tmp_path: Path) -> None:
    phone = Foreteller(tmp_path)
    low = Calibration(source="public", questions=90, raw=(0.0, 1.0), calibrated=(0.0, 0.4))
    assert phone.fire(msgspec.structs.replace(SOON, calibration=low)) == []
    assert phone.fire(msgspec.structs.replace(SOON, calibration=low, threshold=0.3)) == ["soon"]
    assert phone.acts[0].probability == pytest.approx(0.4, abs=0.01)


def test_days_ahead_follow_the_pace_of_the_user(tmp_path: Path) -> None:
    phone = Foreteller(tmp_path)
    device = phone.intent()
    assert device.about_to(["c1"], days=1) == 0  # nothing is known of times
    for _ in range(20):
        phone.time += 7 * DAY_S
        phone.events.add(["c1", "c3"])
    assert device.about_to(["c1"], days=8) > 0.99
    assert device.about_to(["c1"], days=5) == 0
    phone.time += 6 * DAY_S
    assert device.about_to(["c1"], days=2) > 0.99  # a week is nearly over
    assert device.about_to(["c1"], days=0.5) == 0


def test_pace_counts_like_moments_only() -> None:
    times, steps = [0.0, 10.0, 14.0, 30.0], [1, 2, 3, 4]
    assert steps_within(times, steps, 30.0, 5.0)[[0, 3]] == pytest.approx([2 / 3, 1 / 3])
    later = steps_within(times, steps, 36.0, 5.0)  # six after the latest: not after the second
    assert later.nonzero()[0].tolist() == [0, 2] and later.sum() == pytest.approx(1)
    assert steps_within([], [], 3.0, 5.0).sum() == 0
    assert steps_within([4.0], [1], 3.0, 5.0, [0.25, 0.75])[:2] == pytest.approx([0.25, 0.75])
    assert steps_within([7.0] * 9, [1] * 9, 20.0, 5.0).sum() == 0  # imported at once
    assert np.array(public_pace([(times, steps), ([], [])], 5.0))[[0, 3]] == pytest.approx(
        [2 / 3, 1 / 3]
    )


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    for name, wrong in {
        "name": " ",
        "categories": (),
        "steps": 0,
        "days": 0.0,
        "threshold": 0.0,
        "rearm": 0.6,
        "most_per_day": 0,
        "holdout": 1.0,
        "pace": (0.9, 0.9),
    }.items():
        with pytest.raises(SettingsError):
            Trigger(**({"name": "t", "categories": ("c1",)} | {name: wrong}))  # type: ignore[arg-type]
    for name, wrong in {"most_per_day": -1, "gap_minutes": -1.0, "quiet": (5, 25)}.items():
        with pytest.raises(SettingsError):
            TriggerLimits(**{name: wrong})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="one name"):
        Foreteller(tmp_path).fire(SOON, SOON)


@pytest.mark.parametrize("text", REFUSED)
def test_files_of_triggers_that_no_device_reads(text: str, tmp_path: Path) -> None:
    """Pages refuse the same ones, by the published vectors."""
    path = tmp_path / "triggers.json"
    path.write_text(text, "utf-8")
    with pytest.raises(SettingsError):
        read_triggers(path, INVITATION.categories)
