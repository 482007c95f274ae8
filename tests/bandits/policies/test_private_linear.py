"""What one contributor changes, what noise covers it, and that the policy still learns."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.choice import UpperConfidence
from tactful_bandits.policies.private_linear import PrivateLinearBandit

Decision = tuple[str, int, list[float], float]


def _run(policy: PrivateLinearBandit, batches: list[list[Decision]]) -> list[np.ndarray]:
    """Exact values of the nodes, in the order in which they were released."""
    nodes = []
    for batch in batches:
        for contributor, arm, features, reward in batch:
            policy.record(contributor, arm, features, reward)
        policy.close()
        level = (policy.closed & -policy.closed).bit_length() - 1
        nodes.append(policy._exact[level].copy())
    return nodes


_DECISION = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.integers(0, 1),
    st.lists(st.sampled_from([-8.0, -1.0, -0.6, 0.0, 0.5, 1.0, 8.0]), min_size=2, max_size=2),
    st.sampled_from([-8.0, -1.0, 0.0, 1.0]),
)


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(_DECISION, max_size=6), min_size=1, max_size=6),
    contributions=st.integers(1, 3),
)
def test_the_sensitivity_bound_holds(batches: list[list[Decision]], contributions: int) -> None:
    def make() -> PrivateLinearBandit:
        return PrivateLinearBandit(
            2, 2, rho=Fraction(10**9), batches=6, contributions=contributions
        )

    policy = make()
    everybody = _run(policy, batches)
    others = [[entry for entry in batch if entry[0] != "a"] for batch in batches]
    without = _run(make(), others)
    distance = sum(int(((x - y) ** 2).sum()) for x, y in zip(everybody, without, strict=True))
    assert distance <= policy.sensitivity_squared


def test_the_promised_sensitivity_is_reached() -> None:
    # A promise that nobody can reach would be noise for nothing.
    policy = PrivateLinearBandit(1, 1, rho=Fraction(10**9), batches=4, contributions=3)
    moved = _run(policy, [[("a", 0, [1.0], 1.0)] * 5, [], [], []])
    assert sum(int((node**2).sum()) for node in moved) == policy.sensitivity_squared
    assert not policy.record("a", 0, [1.0], 1.0)


def test_noise_is_as_large_as_the_guarantee_needs_and_drawn_once() -> None:
    rng = np.random.default_rng(0)
    policy = PrivateLinearBandit(
        20, 8, rho=Fraction(1, 2), batches=7, contributions=2, entropy=rng.bytes
    )
    for _ in range(3):
        policy.close()
    drawn = policy._noisy[:2]  # three batches: nodes of both levels, nothing inside
    step = policy._grid**2
    assert drawn.std() / step == pytest.approx(policy.sigma, rel=0.1)
    assert policy.sigma == pytest.approx(2 * math.sqrt(3 / 0.5))
    before = policy.to_bytes()
    for _ in range(5):
        policy.choose(np.ones(8), rng)
    policy.record("a", 0, np.ones(8), 1.0)
    policy.forget("a", [(0, np.ones(8), 1.0)])
    assert PrivateLinearBandit.from_bytes(before).to_bytes() == before
    kept = policy._noisy[1].copy()
    policy.close()  # the fourth ends in a node of its own; that of the first two is used no more
    assert policy.closed == 4
    np.testing.assert_array_equal(policy._noisy[1], kept)


def test_choices_depend_on_closed_batches_only() -> None:
    entropy, rule = np.random.default_rng(2).bytes, UpperConfidence(0.0)
    policy = PrivateLinearBandit(2, 2, rho=Fraction(50), batches=3, rule=rule, entropy=entropy)
    before = policy.choose([1.0, 0.0], np.random.default_rng(1))
    for person in range(500):
        policy.record(f"u{person}", 1, [1.0, 0.0], 1.0)
    assert policy.choose([1.0, 0.0], np.random.default_rng(1)) == before
    policy.close()
    assert policy.choose([1.0, 0.0], np.random.default_rng(1)).arm == 1


def test_invalid_removals_change_nothing() -> None:
    """No removal happens twice, from a closed batch, or in part; a valid one leaves no trace."""
    policy = PrivateLinearBandit(2, 2, rho=Fraction(1), batches=3, contributions=2)
    decision = (1, [0.3, 0.4], 0.5)
    policy.record("a", *decision)
    policy.close()
    policy.record("a", *decision)
    policy = PrivateLinearBandit.from_bytes(policy.to_bytes())
    before = policy.to_bytes()
    wrongs = (decision, decision), ((*decision[:2], math.nan),), ((2, *decision[1:]),)
    for wrong in (*wrongs, (decision, (1, [0.3], 0.5))):
        with pytest.raises(PolicyError):
            policy.forget("a", list(wrong))
        assert policy.to_bytes() == before
    policy.record("b", 0, [0.1, 0.9], 1.0)
    policy.forget("a", [decision])
    never = PrivateLinearBandit(2, 2, rho=Fraction(1), batches=3)
    never.record("b", 0, [0.1, 0.9], 1.0)
    np.testing.assert_array_equal(policy._open, never._open)
    for nobody in "ac":
        with pytest.raises(PolicyError, match="fewer decisions in the open batch"):
            policy.forget(nobody, [decision])


def test_delta_follows_from_rho() -> None:
    policy = PrivateLinearBandit(5, 4, rho=Fraction(1, 8), batches=16)
    delta = policy.delta(Fraction(3))
    # Bun and Steinke's conversion, epsilon = rho + 2 sqrt(rho ln(1/delta)), is weaker than ours.
    weaker = math.exp(-((3 - 1 / 8) ** 2) / (4 / 8))
    assert 0 < delta < weaker


def test_it_learns_where_people_are_many() -> None:
    rng = np.random.default_rng(4)
    theta = np.array([[0.9, 0.0], [0.0, 0.9]])
    policy = PrivateLinearBandit(
        2, 2, rho=Fraction(1, 2), batches=8, rule=UpperConfidence(0), explore=0.3, entropy=rng.bytes
    )
    for batch in range(8):
        for person in range(1500):
            x = np.abs(rng.normal(size=2))
            x /= np.linalg.norm(x)
            arm = policy.choose(x, rng).arm
            policy.record(f"{batch}.{person}", arm, x, float(theta[arm] @ x))
        policy.close()
    held_out = np.abs(rng.normal(size=(500, 2)))
    best = (held_out @ theta.T).argmax(axis=1)
    rule = np.array([policy._models.predict(x)[0].argmax() for x in held_out.clip(0, 8)])
    assert (rule == best).mean() > 0.9
    with pytest.raises(PolicyError, match="batches are closed"):
        policy.close()


def test_guarantees_that_would_drown_everything_are_refused() -> None:
    with pytest.raises(PolicyError, match="increase rho"):
        PrivateLinearBandit(2, 2, rho=Fraction(1, 10_000), batches=1000, contributions=10)
    for rho, batches in ((Fraction(0), 3), (Fraction(1), 0)):
        with pytest.raises(PolicyError):
            PrivateLinearBandit(2, 2, rho=rho, batches=batches)
