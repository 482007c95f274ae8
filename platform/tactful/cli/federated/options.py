"""Shared options of the commands for training on devices."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from tactful.cli import options as cli
from tactful.errors import ConfigError
from tactful_federated.core.plan import Wishes
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import parameter_count
from tactful_federated.transport.certificates import Tls, make_tls


@dataclass(frozen=True)
class Cohort:
    """Values of `cohort_options`: the devices of a round."""

    population: int
    delta: float | None
    report_goal: int
    minimum_reports: int
    over_selection: float
    availability: float
    spare: int
    group_size: int
    corrupt: float
    dropped: float

    def wishes(self, **more: Any) -> Wishes:
        """Return the requirements of a run with this cohort.

        Raises:
            SettingsError: A value is out of range.
        """
        delta = 0.1 / self.population if self.delta is None else self.delta
        return Wishes(**(asdict(self) | {"delta": delta} | more))


@dataclass(frozen=True)
class Link:
    """Values of `link_options`: port and certificate of the server that devices reach."""

    port: int
    certificate: Path | None
    key: Path | None
    authority: Path | None

    def tls(self, directory: Path, hosts: tuple[str, ...] = ()) -> Tls:
        """Return the given TLS files, or create them for the server in `directory`.

        Raises:
            ConfigError: Only some of them were given.
        """
        given = [path for path in (self.certificate, self.key, self.authority) if path]
        if given and len(given) < 3:
            raise ConfigError("--certificate, --key and --authority go together")
        if given:
            return Tls(*given)
        names = list(dict.fromkeys([*hosts, "localhost", "127.0.0.1"]))
        return make_tls(directory / "tls", names, now=datetime.datetime.now(datetime.UTC))


@dataclass(frozen=True)
class Results:
    """Places of the results: an MLflow store, None for the usual one, and JSON for scripts."""

    tracking_uri: str | None
    as_json: bool


@dataclass(frozen=True)
class Widths:
    """Values of `width_options`: widths of the layers of the model."""

    embedding: int
    hidden: int

    def check(self, catalogue: Iterable[str]) -> None:
        """Raise ConfigError if the model of a catalogue would be too large for devices."""
        from tactful_federated.model.lstm_torch import MAX_PARAMETERS  # imports torch

        tokens = Vocabulary.from_catalogue(catalogue).size
        size = parameter_count(tokens, embedding=self.embedding, hidden=self.hidden)
        if size > MAX_PARAMETERS:
            raise ConfigError(
                f"--embedding {self.embedding} and --hidden {self.hidden} make {size} parameters of"
                f" {tokens} tokens, more than {MAX_PARAMETERS}: give less, or a coarser catalogue"
            )


invitation_option = click.option(
    "--invitation", type=cli.existing_file, required=True, help="invitation.json of the server."
)
tier_choice = click.Choice(["clear", "secret", "noise-in-sum"])

cohort_options = cli.with_options(
    click.option("--population", type=click.IntRange(1), required=True, help="Devices in all."),
    click.option("--delta", type=float, help="Default: a tenth of 1 / population."),
    click.option("--report-goal", type=click.IntRange(1), default=1000),
    click.option(
        "--minimum-reports",
        type=click.IntRange(0),
        default=0,
        show_default=False,
        help="Minimum number of reports of a round; 0: two thirds of --report-goal.",
    ),
    click.option("--over-selection", default=1.3),
    click.option("--availability", default=0.5),
    click.option(
        "--spare",
        type=click.IntRange(0),
        default=0,
        show_default=False,
        help="Additional participations of a device for void rounds.",
    ),
    click.option(
        "--group-size",
        type=click.IntRange(0),
        default=0,
        show_default=False,
        help="Maximum devices of one secure sum, for several sums in a round; 0: one sum.",
    ),
    click.option(
        "--corrupt",
        type=click.FloatRange(0, 1 / 3, max_open=True),
        default=0.0,
        show_default=False,
        help="Share of colluding devices, for a sparse graph of masks; 0: a complete graph.",
    ),
    click.option(
        "--dropped",
        type=click.FloatRange(0, 1 / 3, max_open=True),
        default=0.1,
        help="Share of devices that drop out of a sum over a sparse graph.",
    ),
    cli.grouped("cohort", Cohort),
)
link_options = cli.with_options(
    click.option("--port", default=9092, help="Port on 127.0.0.1."),
    click.option(
        "--certificate", type=cli.existing_file, help="PEM certificate; default: one is created."
    ),
    click.option("--key", type=cli.existing_file, help="PEM file with the key of the certificate."),
    click.option(
        "--authority", type=cli.existing_file, help="PEM file with the authority that devices pin."
    ),
    cli.grouped("link", Link),
)
width_options = cli.with_options(
    click.option(
        "--embedding", type=click.IntRange(1), default=32, help="Width of a token's vector."
    ),
    click.option("--hidden", type=click.IntRange(1), default=32, help="Width of the LSTM state."),
    cli.grouped("widths", Widths),
)
