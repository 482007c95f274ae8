"""Private training on central data: what it costs by another accountant, and what bounds it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra tactful[federated]")
pytest.importorskip("opacus", reason="needs the extra tactful[federated]")

from scipy import stats  # noqa: E402
from torch import nn  # noqa: E402

from tactful_federated.errors import HistoryError, SettingsError  # noqa: E402
from tactful_federated.model.dp_sgd import (  # noqa: E402
    CentralSettings,
    epsilon_of,
    train_privately,
)

SETTINGS = CentralSettings(
    steps=60,
    sample_rate=0.05,
    expected_batch=100,
    noise_multiplier=1.0,
    clipping_norm=1.0,
    delta=1e-5,
    epsilon_limit=10,
    learning_rate=1.0,
)


def by_example(outputs: Any, targets: Any) -> Any:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def everybody(person: str) -> bool:
    return True


def rows(number: int, seed: int = 5) -> tuple[Any, Any, list[str]]:
    """Two clouds of points, one row a person."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 2, (number,), generator=generator)
    inputs = torch.randn(number, 3, generator=generator) + 3.0 * targets[:, None]
    return inputs, targets, [f"person {n}" for n in range(number)]


def linear() -> Any:
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def trained(
    data: tuple[Any, Any, list[str]], settings: CentralSettings, seed: int, model: Any = None
) -> Any:
    """The change of all weights, in one vector."""
    model = linear() if model is None else model
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    inputs, targets, people = data
    generator = torch.Generator().manual_seed(seed)
    train_privately(
        model,
        by_example,
        inputs,
        targets,
        people,
        settings,
        consented=everybody,
        generator=generator,
    )
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return after - before


@pytest.mark.parametrize(
    ("noise_multiplier", "sample_rate", "steps", "delta"),
    [(1.0, 0.01, 1_000, 1e-5), (0.8, 0.05, 200, 1e-6), (2.0, 1.0, 20, 1e-5), (4.0, 0.1, 500, 1e-7)],
)
def test_epsilon_is_that_of_another_accountant(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float
) -> None:
    dp_accounting = pytest.importorskip("dp_accounting")
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(
            sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier)
        ),
        steps,
    )
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(event)
    reference = accountant.get_epsilon(delta)
    ours = epsilon_of(
        replace(
            SETTINGS,
            noise_multiplier=noise_multiplier,
            sample_rate=sample_rate,
            steps=steps,
            delta=delta,
        )
    )
    # Both are upper bounds: of the discretisation of one, and an error of 0.01 of the other.
    assert reference - 0.01 < ours < reference * 1.01 + 0.03


def test_what_was_taken_is_what_is_accounted_and_it_learns() -> None:
    inputs, targets, people = rows(2_000)
    model = linear()
    result = train_privately(
        model,
        by_example,
        inputs,
        targets,
        people,
        SETTINGS,
        consented=everybody,
        generator=torch.Generator().manual_seed(1),
    )
    assert result.steps == 60
    assert result.epsilon == pytest.approx(epsilon_of(SETTINGS), rel=1e-6)
    assert result.epsilon < 3
    right = (model(inputs).argmax(dim=1) == targets).double().mean()
    assert right > 0.95


def test_sensitivity_is_the_clipping_norm() -> None:
    """All rows take part, so with and without somebody the noise is the same."""
    inputs, targets, people = rows(40)
    settings = replace(SETTINGS, steps=1, sample_rate=1.0, epsilon_limit=100)
    inputs[7] *= 1e6  # an outlier whose gradient would swamp all others
    data = inputs, targets, people
    without = tuple(
        torch.cat([part[:7], part[8:]]) if torch.is_tensor(part) else part[:7] + part[8:]
        for part in data
    )

    # The sampler draws a number for each row: the noise of both has to begin at the same place.
    def update(rows_of: Any) -> Any:
        model, (x, y, who) = linear(), rows_of
        generator = torch.Generator().manual_seed(3)
        torch.rand(len(people) - len(who), generator=generator)
        train_privately(
            model, by_example, x, y, who, settings, consented=everybody, generator=generator
        )
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    moved = (update(data) - update(without)).norm() * settings.expected_batch
    assert 0.9 < moved < 1.0001


def test_a_row_that_is_not_finite_changes_nothing() -> None:
    inputs, targets, people = rows(40)
    settings = replace(SETTINGS, steps=3, sample_rate=1.0, epsilon_limit=100)
    inputs[7] = float("inf")
    poisoned = trained((inputs, targets, people), settings, seed=4)
    assert poisoned.isfinite().all()


def test_noise_is_added_in_full_also_when_nobody_takes_part() -> None:
    data = torch.zeros(4, 40), torch.zeros(4, dtype=torch.int64), list("abcd")
    settings = replace(SETTINGS, steps=1, sample_rate=1e-9, noise_multiplier=2.0, expected_batch=4)
    moves = trained(data, settings, seed=6, model=nn.Linear(40, 25)).double().numpy()
    spread = settings.noise_multiplier * settings.clipping_norm / settings.expected_batch
    assert stats.kstest(moves, stats.norm(scale=spread).cdf).pvalue > 1e-3
    # Noise a fifth lower would be caught.
    assert stats.kstest(moves, stats.norm(scale=1.25 * spread).cdf).pvalue < 1e-3


def test_training_that_would_cost_too_much_does_not_begin() -> None:
    model = linear()
    with pytest.raises(SettingsError, match=r"cost epsilon .* above the limit 1"):
        settings = replace(SETTINGS, epsilon_limit=1)
        inputs, targets, people = rows(50)
        train_privately(model, by_example, inputs, targets, people, settings, consented=everybody)
    assert not model.weight.any()


def test_who_did_not_consent_or_comes_twice_is_refused() -> None:
    inputs, targets, people = rows(50)
    for wrong, who, what in (
        (people, lambda person: person != "person 3", "1 of 50 people did not consent"),
        ([*people[:-1], "person 0"], everybody, "1 of 49 people have several rows"),
        (people[:-1], everybody, "50 inputs, 50 targets and 49 people"),
    ):
        with pytest.raises(HistoryError, match=what):
            train_privately(linear(), by_example, inputs, targets, wrong, SETTINGS, consented=who)
    with pytest.raises(HistoryError, match="one or more"):
        train_privately(
            linear(), by_example, inputs[:0], targets[:0], [], SETTINGS, consented=everybody
        )


def test_a_model_that_mixes_rows_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(SettingsError, match="cannot be trained privately"):
        inputs, targets, people = rows(50)
        train_privately(model, by_example, inputs, targets, people, SETTINGS, consented=everybody)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("sample_rate", 0.0),
        ("sample_rate", 1.1),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", float("nan")),
        ("clipping_norm", float("inf")),
        ("delta", 0.0),
        ("delta", 1.0),
        ("epsilon_limit", -1.0),
        ("expected_batch", 0.0),
        ("learning_rate", 0.0),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, value: float) -> None:
    with pytest.raises(SettingsError, match=setting):
        replace(SETTINGS, **{setting: value})  # type: ignore[arg-type]
