"""Learning from the log: exactly once, after any kill; and unlearning to the bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.bandits.shop import FEATURES, HOUR, NOW, banner, clicked, decided
from tests.platform.memory_log import MemoryLog

from tactful.bandits.definitions import BanditDefinition
from tactful.bandits.learner import BanditLearner
from tactful.bandits.model import FeatureVector
from tactful.bandits.serving import ServedBandits
from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.log.embedded_log import EmbeddedLog


def _learner(
    log: MemoryLog,
    place: Path,
    definition: BanditDefinition,
    *,
    now: int = NOW,
    allows: Callable[[Event], bool] = lambda event: True,
) -> BanditLearner:
    place.mkdir(exist_ok=True)
    learner = BanditLearner(
        lambda: [log],
        place,
        place / "published",
        clock=lambda: now,
        allows=allows,
    )
    learner.follow([(definition, "live")])
    return learner


def _state(learner: BanditLearner, key: str = "banner") -> bytes:
    bandit = learner._learning[key]
    return bandit.policy.to_bytes()


def _counts(payloads: list[bytes], place: Path, **changes: Any) -> tuple[list[float], list[float]]:
    """Return successes and failures by arm, in the present period."""
    changes.setdefault("memory", {"periods": 5})
    learner = _learner(MemoryLog(payloads), place, banner(**changes), now=NOW + 9 * HOUR)
    learner.run()
    alpha, beta = learner._learning["banner"].policy.parameters  # type: ignore[union-attr]
    return (alpha - 1).tolist(), (beta - 1).tolist()


def test_each_decision_is_learnt_once_with_its_first_reward(tmp_path: Path) -> None:
    log = [
        decided(1, "a", NOW),
        decided(1, "a", NOW),  # appended twice
        clicked(1, NOW + 1),
        clicked(1, NOW + 1),  # sent twice
        clicked(2, NOW + 2),  # a second click on the same banner
        decided(2, "b", NOW + 3),
    ]
    assert _counts(log, tmp_path) == ([1, 0, 0], [0, 1, 0])


def test_a_reward_before_its_decision_or_after_its_window_does_not_count(tmp_path: Path) -> None:
    log = [
        clicked(1, NOW - 5),
        decided(1, "a", NOW),
        clicked(2, NOW - 1),
        clicked(3, NOW + HOUR),  # the window is half-open
        decided(2, "c", NOW + 2 * HOUR),
        clicked(4, NOW + 2 * HOUR + 1, "bea"),  # another user's
        clicked(5, NOW + 2 * HOUR + 1, properties={"decision_id": "d1"}),
    ]
    assert _counts(log, tmp_path) == ([0, 0, 0], [1, 0, 1])


def test_a_reward_that_arrives_days_late_counts_neither_live_nor_again(tmp_path: Path) -> None:
    log = [
        decided(1, "a", NOW),
        clicked(1, NOW + 1, received_at=NOW + 8 * HOUR),
    ]
    assert _counts(log, tmp_path) == ([0, 0, 0], [1, 0, 0])


def test_the_named_decision_is_rewarded_and_else_the_latest(tmp_path: Path) -> None:
    decisions = [decided(1, "a", NOW), decided(2, "b", NOW + 1)]
    latest = [*decisions, clicked(1, NOW + 2)]
    assert _counts(latest, tmp_path / "1") == ([0, 1, 0], [1, 0, 0])
    named = [*decisions, clicked(1, NOW + 2, properties={"decision_id": "d1"})]
    assert _counts(named, tmp_path / "2") == ([1, 0, 0], [0, 1, 0])
    by_id = [*decisions, clicked(1, NOW + 2, recommendation_id="d1")]
    assert _counts(by_id, tmp_path / "3") == ([1, 0, 0], [0, 1, 0])
    stolen = [*decisions, clicked(1, NOW + 2, "bea", recommendation_id="d1")]
    assert _counts(stolen, tmp_path / "4") == ([0, 0, 0], [1, 1, 0])


def test_a_slow_clock_loses_no_reward_that_names_its_decision(tmp_path: Path) -> None:
    named = {"decision_id": "d1"}
    slow = [decided(1, "a", NOW), clicked(1, NOW - 60_000, received_at=NOW + 5, properties=named)]
    assert _counts(slow, tmp_path) == ([1, 0, 0], [0, 0, 0])


def test_vectors_of_other_features_are_not_learnt(tmp_path: Path) -> None:
    """They may be as long: a feature was replaced, or has another scale."""
    before = banner(policy="linucb", features=FEATURES)
    after = banner(policy="linucb", features=[{**FEATURES[0], "scale": 90}, FEATURES[1]])
    vector = [1.0, 0.5, 1.0, 0.0]
    log = [
        decided(n, "a", NOW + n, features=vector, layout=each.layout)
        for n, each in enumerate((before, after, after))
    ]
    log.append(decided(3, "a", NOW + 3, features=vector))  # of an earlier version
    for definition, expected in ((before, 2), (after, 3)):
        place = tmp_path / definition.layout
        learner = _learner(MemoryLog(log), place, definition, now=NOW + 9 * HOUR)
        learner.run()
        assert learner.learnt("banner").decisions == expected  # type: ignore[union-attr]


def test_a_reward_of_a_removed_arm_is_no_other_arms(tmp_path: Path) -> None:
    removed = [decided(1, "a", NOW), decided(2, "removed", NOW + 1), clicked(1, NOW + 2)]
    assert _counts(removed, tmp_path) == ([0, 0, 0], [1, 0, 0])
    other = [decided(1, "a", NOW), decided(2, "b", NOW + 1, features=[1.0]), clicked(1, NOW + 2)]
    assert _counts(other, tmp_path / "features") == ([0, 0, 0], [1, 0, 0])


@pytest.mark.parametrize("step", [1, 2, 9])
def test_an_id_whose_decision_is_over_is_none_whenever_the_log_is_read(
    tmp_path: Path, step: int
) -> None:
    """An old id in `recommendation_id` may be a recommendation's: the latest decision counts."""
    later = NOW + 5 * HOUR
    records = [
        decided(1, "a", NOW),
        decided(2, "b", later),
        clicked(1, later + 1, recommendation_id="d1"),
        decided(3, "c", later + 2),
        clicked(2, later + 3, recommendation_id="d2"),
    ]
    log = MemoryLog()
    learner = _learner(log, tmp_path, banner(memory={"periods": 5}))
    for end in range(step, len(records) + step, step):
        log.payloads = records[:end]
        learner._clock = lambda end=end: _time(log.payloads[-1])  # type: ignore[misc]
        learner.run()
    learner._clock = lambda: NOW + 9 * HOUR
    learner.run()
    alpha, beta = learner._learning["banner"].policy.parameters  # type: ignore[union-attr]
    assert ((alpha - 1).tolist(), (beta - 1).tolist()) == ([0, 1, 0], [1, 0, 1])


class _SlowLog(MemoryLog):
    """A partition whose first read takes an hour."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__([decided(9, "b", NOW, "bea")])
        self._meanwhile = meanwhile

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        meanwhile, self._meanwhile = self._meanwhile, lambda: None
        meanwhile()
        return super().read(offset, limit)


def test_a_reward_that_comes_while_another_partition_is_read_counts(tmp_path: Path) -> None:
    log, now = MemoryLog([decided(1, "a", NOW)]), [NOW + 1]

    def meanwhile() -> None:
        log.payloads.append(clicked(1, NOW + 2))
        now[0] += 2 * HOUR

    logs: Any = [log, _SlowLog(meanwhile)]
    learner = BanditLearner(lambda: logs, tmp_path, tmp_path / "published", clock=lambda: now[0])
    learner.follow([(banner(memory={"periods": 5}), "live")])
    learner.run()
    learner.run()
    alpha, _ = learner._learning["banner"].policy.parameters  # type: ignore[union-attr]
    assert alpha.tolist() == [2, 1, 1]


def test_a_snapshot_beyond_a_restored_log_is_not_used(tmp_path: Path) -> None:
    whole = [decided(n, "a", NOW + n) for n in range(9)]
    learner = _learner(MemoryLog(whole), tmp_path, banner(), now=NOW + 9 * HOUR)
    learner.run()
    learner.save()
    again = _learner(MemoryLog(whole[:4]), tmp_path, banner(), now=NOW + 2 * HOUR)
    again.run()
    assert again._learning["banner"].positions == [4]
    assert again.learnt("banner").decisions == 4  # type: ignore[union-attr]


def test_a_long_log_is_learnt_with_the_memory_of_its_window(tmp_path: Path) -> None:
    """Learning again holds decisions until the log itself is past their window, not all of it."""
    records = [decided(n, "a", NOW + n * 60_000, f"u{n % 7}") for n in range(9_000)]
    learner = _learner(MemoryLog(records), tmp_path, banner(), now=NOW)
    learner.run()
    assert learner.learnt("banner").waiting < 2_300  # type: ignore[union-attr]


def test_filter_and_value_decide_what_a_reward_is(tmp_path: Path) -> None:
    log = [
        decided(1, "a", NOW),
        clicked(1, NOW + 1, properties={"place": "footer"}),
        clicked(2, NOW + 2, properties={"place": "banner"}),
    ]
    reward = {"event": "click", "filter": {"properties.place": "banner"}, "within_hours": 1}
    assert _counts(log, tmp_path, reward=reward) == ([1, 0, 0], [0, 0, 0])
    assert _counts(log[:2], tmp_path / "2", reward=reward) == ([0, 0, 0], [1, 0, 0])
    paid = {"event": "click", "value": "amount", "cap": 50, "within_hours": 1}
    definition = banner(reward=paid, policy="linear-thompson", features=FEATURES)
    for amount, expected in ((25, 0.5), (900, 1.0), (-3, 0.0), ("much", 0.0)):
        log = [
            decided(1, "a", NOW, features=[1, 0, 0, 0]),
            clicked(1, NOW + 1, properties={"amount": amount}),
        ]
        learner = _learner(MemoryLog(log), tmp_path / str(amount), definition, now=NOW + 9 * HOUR)
        learner.run()
        policy: Any = learner._learning["banner"].policy
        assert policy.coefficients[0, 0] == pytest.approx(expected / 2)  # a ridge of 1


def test_decisions_of_clients_and_of_removed_arms_are_not_learnt(tmp_path: Path) -> None:
    own = decided(1, "removed", NOW)
    forged = encode_entry(
        Event(
            event_id="bandit:d2",
            type="x.bandit",
            timestamp=NOW,
            user_id="eve",
            recommendation_id="d2",
            sender="browser",
            properties={"bandit": "banner", "bandit_arm": "a", "bandit_propensity": 1.0},
        )
    )
    wrong = decided(3, "a", NOW, propensity=7.0)
    assert _counts([own, forged, wrong], tmp_path) == ([0] * 3, [0] * 3)


def test_every_context_becomes_a_bounded_vector() -> None:
    features = [{"context": "n", "scale": 4}, {"context": "device", "values": ["phone"]}]
    vector = FeatureVector(banner(policy="linucb", features=features))
    for value, expected in (
        *((2, 0.5), (-1e300, -1.0), (10**400, 1.0), (-(10**400), -1.0), (True, 0.25)),
        *((float("nan"), 0.0), (float("inf"), 1.0), ("much", 0.0), (None, 0.0), ([1], 0.0)),
    ):
        assert vector.of({}, {"n": value, "device": value}).tolist() == [1.0, expected, 0.0]
    assert vector.of({}, {"device": "phone"}).tolist() == [1.0, 0.0, 1.0]


_POLICIES = st.sampled_from(["beta-thompson", "linear-thompson", "linucb"])


def _log(seed: int, length: int, features: bool) -> list[bytes]:
    """Return decisions and clicks of three users, in time, some late and some repeated."""
    rng = np.random.default_rng(seed)
    at, log, number = NOW, [], 0
    for _ in range(length):
        at += int(rng.integers(1, HOUR // 3))
        user = f"user-{rng.integers(3)}"
        if rng.random() < 0.5:
            number += 1
            x = [1.0, *rng.integers(-4, 5, 3) / 4] if features else []
            log.append(decided(number, "abc"[rng.integers(3)], at, user, features=x))
        else:
            back = int(rng.integers(0, HOUR // 4)) if rng.random() < 0.3 else 0
            log.append(clicked(int(rng.integers(99)), at - back, user, received_at=at))
    return log


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    policy=_POLICIES,
    kills=st.lists(st.integers(0, 60), max_size=4),
    snapshots=st.booleans(),
)
def test_killed_learners_have_learnt_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    policy: str,
    kills: list[int],
    snapshots: bool,
) -> None:
    """Runs at any moments, with kills before and after snapshots, against one run at the end."""
    definition = banner(policy=policy, features=[] if policy == "beta-thompson" else FEATURES)
    payloads = _log(seed, 60, policy != "beta-thompson")
    times = [_time(payload) for payload in payloads]
    place = tmp_path_factory.mktemp("learner")
    growing = MemoryLog()
    learner = _learner(growing, place / "killed", definition, now=NOW)
    for end in sorted(kills):
        growing.payloads = payloads[:end]
        learner._clock = lambda end=end: max(times[:end], default=NOW)  # type: ignore[misc]
        learner.run()
        if snapshots:
            learner.save()
        learner = _learner(growing, place / "killed", definition, now=NOW)  # the old one is gone
    growing.payloads = payloads
    whole = _learner(MemoryLog(payloads), place / "whole", definition)
    for each in (learner, whole):
        each._clock = lambda: NOW + 999 * HOUR
        each.run()
    assert _state(learner) == _state(whole)


def _time(payload: bytes) -> int:
    from tactful_streaming.contract.log_entries import decode_entry

    entry: Any = decode_entry(payload)
    return int(entry.received_at or entry.timestamp)


def _user(payload: bytes) -> str | None:
    from tactful_streaming.contract.log_entries import decode_entry

    entry: Any = decode_entry(payload)
    return None if entry.user_id is None else str(entry.user_id)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), policy=_POLICIES, erased=st.integers(0, 2))
def test_an_erased_user_was_never_there(
    tmp_path_factory: pytest.TempPathFactory, seed: int, policy: str, erased: int
) -> None:
    definition = banner(policy=policy, features=[] if policy == "beta-thompson" else FEATURES)
    payloads = _log(seed, 60, policy != "beta-thompson")
    gone: set[str] = set()
    place = tmp_path_factory.mktemp("erased")
    learner = _learner(
        MemoryLog(payloads),
        place / "with",
        definition,
        now=NOW + 999 * HOUR,
        allows=lambda event: event.user_id not in gone,
    )
    learner.run()
    learner.save()
    gone.add(f"user-{erased}")
    assert learner.forget() == 1
    others = [payload for payload in payloads if _user(payload) not in gone]
    never = _learner(MemoryLog(others), place / "never", definition, now=NOW + 999 * HOUR)
    never.run()
    assert _state(learner) == _state(never)
    assert learner.learnt("banner") == never.learnt("banner")
    files = [path for path in (place / "with").rglob("*") if path.is_file()]
    assert not any(f"user-{erased}".encode() in path.read_bytes() for path in files)


def test_a_changed_arm_is_learnt_again_and_a_new_bound_is_not(tmp_path: Path) -> None:
    log = MemoryLog([decided(1, "a", NOW), clicked(1, NOW + 1), decided(2, "c", NOW + 2)])
    learner = _learner(log, tmp_path, banner(), now=NOW + 9 * HOUR)
    learner.run()
    before = learner._learning["banner"]
    learner.follow([(banner(min_share=0.1), "live")])
    assert learner._learning["banner"] is before
    two = banner(arms=[{"name": name, "value": 0} for name in ("c", "a")])
    learner.follow([(two, "live")])
    learner.run()
    alpha, beta = learner._learning["banner"].policy.parameters  # type: ignore[union-attr]
    assert (alpha.tolist(), beta.tolist()) == ([1, 2], [2, 1])


def test_published_numbers_decide_in_another_process(tmp_path: Path) -> None:
    log = [decided(n, "b", NOW + n) for n in range(40)]
    log += [clicked(n, NOW + 50, properties={"decision_id": f"d{n}"}) for n in range(40)]
    log += [decided(n, "a", NOW + n) for n in range(40, 80)]
    learner = _learner(MemoryLog(log), tmp_path, banner(min_share=0.1), now=NOW + 9 * HOUR)
    assert learner.run()
    assert not learner.run()
    served = ServedBandits(tmp_path / "published")
    assert served.refresh()
    assert not served.refresh()
    rng = np.random.default_rng(1)
    decisions = [served.by_key["banner"].decide({}, {}, rng) for _ in range(2_000)]
    shares = [sum(it.arm == arm for it in decisions) / 2_000 for arm in "abc"]
    assert shares[1] > 0.6
    assert min(shares) > 0.07
    assert all(it.propensity >= 0.1 - 1e-9 and it.live for it in decisions)
    off = [
        served.by_key["banner"].decide({}, {}, rng, in_change=False) for _ in range(20)
    ]  # the control of a rollout
    assert {it.arm for it in off} == {"a"}
    assert {it.floor for it in off} == {0.0}
    assert {it.choice for it in off} > {"b"}


_KILLED = """
import sys
from pathlib import Path
from tests.platform.bandits.shop import NOW, HOUR, banner
from tactful.bandits.learner import BanditLearner
from tactful_streaming.log.embedded_log import EmbeddedLog

place = Path(sys.argv[1])
log = EmbeddedLog(place / "log")
now = [NOW]
learner = BanditLearner(lambda: [log], place, place / "published", clock=lambda: now[0])
learner.follow([(banner(policy="linear-thompson"), "live")])
while True:
    now[0] += 31_000  # so that every run writes a snapshot, too
    learner.run()
    print(learner._learning["banner"].positions[0], flush=True)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_neither_loses_nor_doubles_a_decision(tmp_path: Path) -> None:
    """Twelve kills of a process that learns and writes snapshots without a pause; seconds each."""
    payloads = [
        decided(n, "abc"[n % 3], NOW + n, f"u{n % 50}", features=[1.0])
        if n % 2
        else clicked(n, NOW + n, f"u{n % 50}")
        for n in range(4_000)
    ]
    with EmbeddedLog(tmp_path / "log") as log:
        log.append(payloads[:100])
    rng = np.random.default_rng(3)
    for part in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(int(rng.integers(2, 30))):
                assert process.stdout.readline(), "it failed by itself"
            process.send_signal(signal.SIGKILL)
        with EmbeddedLog(tmp_path / "log") as log:
            log.append(payloads[100 + part * 300 : 400 + part * 300])
    definition = banner(policy="linear-thompson")
    with EmbeddedLog(tmp_path / "log") as log:
        whole = _learner(MemoryLog(payloads[: log.end]), tmp_path / "whole", definition)
        learner = BanditLearner(
            lambda: [log], tmp_path, tmp_path / "published", clock=lambda: NOW + 999 * HOUR
        )
        learner.follow([(definition, "live")])
        assert 0 < learner._learning["banner"].positions[0] < log.end
        learner.run()
    whole._clock = lambda: NOW + 999 * HOUR
    whole.run()
    assert _state(learner) == _state(whole)
