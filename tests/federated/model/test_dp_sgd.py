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
from tactful_federated.model import dp_sgd  # noqa: E402

SETTINGS = dp_sgd.CentralSettings(
    steps=60,
    sample_rate=0.05,
    expected_batch=100,
    noise_multiplier=1.0,
    clipping_norm=1.0,
    delta=1e-5,
    epsilon_limit=10,
    learning_rate=1.0,
)
Rows = tuple[Any, Any, list[str]]


def by_example(outputs: Any, targets: Any) -> Any:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def train(model: Any, data: Rows, settings: dp_sgd.CentralSettings = SETTINGS, **more: Any) -> Any:
    more = {"consented": lambda person: True, **more}
    return dp_sgd.train_privately(model, by_example, *data, settings, **more)


def rows(number: int) -> Rows:
    """Two clouds of points, one row a person."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.randint(0, 2, (number,), generator=generator)
    inputs = torch.randn(number, 3, generator=generator) + 3.0 * targets[:, None]
    return inputs, targets, [f"person {n}" for n in range(number)]


def linear() -> Any:
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def weights_of(model: Any) -> Any:
    """All weights in one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def trained(data: Rows, settings: dp_sgd.CentralSettings, generator: Any, model: Any = None) -> Any:
    """The change of all weights, in one vector."""
    model = linear() if model is None else model
    before = weights_of(model)
    train(model, data, settings, generator=generator)
    return weights_of(model) - before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise_multiplier", "sample_rate", "steps", "delta"),
    [(1.0, 0.01, 1_000, 1e-5), (0.8, 0.05, 200, 1e-6), (2.0, 1.0, 20, 1e-5), (4.0, 0.1, 500, 1e-7)],
)
def test_epsilon_is_that_of_another_accountant(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float
) -> None:
    dp_accounting = pytest.importorskip("dp_accounting")
    step = dp_accounting.GaussianDpEvent(noise_multiplier)
    sampled = dp_accounting.PoissonSampledDpEvent(sample_rate, step)
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(dp_accounting.SelfComposedDpEvent(sampled, steps))
    reference = accountant.get_epsilon(delta)
    changes: dict[str, Any] = {"sample_rate": sample_rate, "steps": steps, "delta": delta}
    ours = dp_sgd.epsilon_of(replace(SETTINGS, noise_multiplier=noise_multiplier, **changes))
    # Both are upper bounds: of the discretisation of one, and an error of 0.01 of the other.
    assert reference - 0.01 < ours < reference * 1.01 + 0.03


@pytest.mark.slow
def test_what_was_taken_is_what_is_accounted_and_it_learns() -> None:
    data, model = rows(2_000), linear()
    result = train(model, data, generator=torch.Generator().manual_seed(1))
    assert result.steps == 60
    assert result.epsilon == pytest.approx(dp_sgd.epsilon_of(SETTINGS), rel=1e-6)
    assert result.epsilon < 3
    assert (model(data[0]).argmax(dim=1) == data[1]).double().mean() > 0.95


def test_sensitivity_is_the_clipping_norm() -> None:
    """All rows take part, so with and without somebody the noise is the same."""
    inputs, targets, people = rows(40)
    settings = replace(SETTINGS, steps=1, sample_rate=1.0, epsilon_limit=100)
    inputs[7] *= 1e6  # an outlier whose gradient would swamp all others
    kept = [n for n in range(40) if n != 7]

    # The sampler draws a number for each row: the noise of both has to begin at the same place.
    def update(data: Rows) -> Any:
        generator = torch.Generator().manual_seed(3)
        torch.rand(len(people) - len(data[2]), generator=generator)
        return trained(data, settings, generator)

    without = update((inputs[kept], targets[kept], [people[n] for n in kept]))
    moved = (update((inputs, targets, people)) - without).norm() * settings.expected_batch
    assert 0.9 < moved < 1.0001
    inputs[7] = float("inf")  # a row that is not finite changes nothing
    settings = replace(settings, steps=3)
    poisoned = trained((inputs, targets, people), settings, torch.Generator().manual_seed(4))
    assert poisoned.isfinite().all()


def test_noise_is_added_in_full_also_when_nobody_takes_part() -> None:
    data = torch.zeros(4, 40), torch.zeros(4, dtype=torch.int64), list("abcd")
    settings = replace(SETTINGS, steps=1, sample_rate=1e-9, noise_multiplier=2.0, expected_batch=4)
    generator = torch.Generator().manual_seed(6)
    moves = trained(data, settings, generator, nn.Linear(40, 25)).double().numpy()
    spread = settings.noise_multiplier * settings.clipping_norm / settings.expected_batch
    assert stats.kstest(moves, stats.norm(scale=spread).cdf).pvalue > 1e-3
    # Noise a fifth lower would be caught.
    assert stats.kstest(moves, stats.norm(scale=1.25 * spread).cdf).pvalue < 1e-3


def test_training_that_would_cost_too_much_does_not_begin() -> None:
    model = linear()
    with pytest.raises(SettingsError, match=r"cost epsilon .* above the limit 1"):
        train(model, rows(50), replace(SETTINGS, epsilon_limit=1))
    assert not model.weight.any()


def test_who_did_not_consent_or_comes_twice_is_refused() -> None:
    inputs, targets, people = rows(50)
    for wrong, who, what in (
        (people, {"person 3"}, "1 of 50 people did not consent"),
        ([*people[:-1], "person 0"], (), "1 of 49 people have several rows"),
        (people[:-1], (), "50 inputs, 50 targets and 49 people"),
    ):
        with pytest.raises(HistoryError, match=what):
            train(linear(), (inputs, targets, wrong), consented=lambda it, no=who: it not in no)
    with pytest.raises(HistoryError, match="one or more"):
        train(linear(), (inputs[:0], targets[:0], []))


def test_models_that_mix_rows_and_settings_out_of_range_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(SettingsError, match="cannot be trained privately"):
        train(model, rows(50))
    for value, names in {
        0.0: "steps sample_rate noise_multiplier delta expected_batch learning_rate",
        1.0: "delta",
        1.1: "sample_rate",
        -1.0: "epsilon_limit",
        float("nan"): "noise_multiplier",
        float("inf"): "clipping_norm",
    }.items():
        for name in names.split():
            with pytest.raises(SettingsError, match=name):
                replace(SETTINGS, **{name: value})  # type: ignore[arg-type]
