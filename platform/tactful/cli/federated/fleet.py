"""Training on devices over a network: ``tactful federated serve``, ``enrol`` and ``device``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from tactful.cli import options as cli
from tactful.cli.federated import options
from tactful.cli.federated.mlflow_runs import FederatedRuns
from tactful.cli.federated.reports import Receiver, plan_of, report_options
from tactful.errors import ConfigError, TactfulError
from tactful.schemas.federated import FederatedRound
from tactful.util.clock import now_ms
from tactful.util.signals import leave, on_stop_signals
from tactful_federated.core.compression import Encoding
from tactful_federated.core.invitation import Invitation, Tier, read_invitation
from tactful_federated.core.private_training import Outcome
from tactful_federated.core.server_optimizer import Optimizer
from tactful_federated.device.command import read_history, take_part
from tactful_federated.device.home import DeviceHome
from tactful_federated.device.stock_node import require_clear
from tactful_federated.errors import FederatedError, HistoryError, SettingsError
from tactful_federated.serving import rounds
from tactful_federated.serving.buffered import FlowerStream, serve_buffered
from tactful_federated.serving.status import read_status
from tactful_federated.transport.page_server import PageApp, round_routes, serving_pages
from tactful_federated.transport.pages import PageTransport
from tactful_federated.transport.superlink import SuperLink
from tactful_federated.transport.superlink_grid import SuperLinkGrid


@dataclass(frozen=True)
class _Run:
    """Options of `serve` that define the run."""

    catalogue: Path
    name: str
    epsilon: float
    rounds: int
    tier: Tier


@dataclass(frozen=True)
class _Method:
    """Options of `serve` for how updates are made, sent and applied."""

    encoding: Encoding
    trim: float
    optimizer: Literal["fedavg", "fedadam", "fedyogi"]
    server_rate: float | None
    device_rate: float
    proximal: float
    buffered: bool
    most_stale: int
    stock: bool
    deadline: float

    def check(self, tier: Tier) -> None:
        """Raise ConfigError if the method cannot be used with `tier`."""
        if self.encoding != "float32" and tier != "clear":
            raise ConfigError("--encoding goes with --tier clear: secret sums have 32-bit words")
        if self.trim and tier != "clear":
            raise ConfigError("--trim goes with --tier clear: a secret sum shows no single update")
        if self.buffered and (tier != "clear" or self.trim):
            raise ConfigError("--buffered goes with --tier clear, without --trim: it reads updates")
        if self.stock:
            with cli.reported_as(ConfigError, SettingsError):
                require_clear(tier)

    @property
    def proxy(self) -> str:
        """Configuration of the proxy, by its path in the source tree."""
        return f"deploy/fleet-proxy{'-stock' if self.stock else ''}.conf"

    def server_optimizer(self) -> Optimizer:
        """Return the optimiser of the server; adaptive ones have a default rate of 0.003."""
        rate = 1.0 if self.optimizer == "fedavg" else 0.003
        return Optimizer(self.optimizer, rate if self.server_rate is None else self.server_rate)


@dataclass(frozen=True)
class _Pages:
    """Options of `serve` for devices in web pages."""

    page_port: int | None
    origins: tuple[str, ...]

    def check(self, tier: Tier) -> None:
        """Raise ConfigError if pages cannot take part."""
        if self.page_port is None and not self.origins:
            return
        if self.page_port is None or not self.origins:
            raise ConfigError("--page-port and --origin go together: give both")
        if tier == "clear":
            raise ConfigError(
                "--page-port goes with --tier secret or noise-in-sum: no page sends updates in the"
                " clear"
            )

    @contextmanager
    def transport(self, invitation: Invitation, deadline: float) -> Iterator[PageTransport | None]:
        """Serve pages; yield their transport, None without any."""
        if self.page_port is None:
            yield None
            return
        transport = PageTransport(invitation.enrolled_by, timeout=deadline)
        with serving_pages(
            PageApp(round_routes(transport), self.origins), self.page_port
        ) as address:
            click.echo(f"pages on {address}: pass /v1/device/ of a TLS proxy to it", err=True)
            yield transport


_rate = click.FloatRange(0, min_open=True)
_directory = click.argument("directory", type=cli.any_directory)


@click.command(
    "serve",
    epilog=cli.example(
        "tactful federated serve runs/intent-1 --catalogue categories.txt --population 100000"
    ),
)
@_directory
@click.option(
    "--catalogue", type=cli.existing_file, required=True, help="Public categories, one a line."
)
@click.option("--run", "name", default="intent-1", help="Name of the run.")
@click.option("--epsilon", default=2.0, help="Privacy budget epsilon of the whole run.")
@click.option("--rounds", type=click.IntRange(1), default=500)
@options.cohort_options
@click.option("--tier", type=options.tier_choice, default="secret", help="What the server sees.")
@click.option(
    "--encoding",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    help="Encoding of updates; other than float32 only with --tier clear.",
)
@click.option(
    "--trim",
    type=click.FloatRange(0, 0.5, max_open=True),
    default=0.0,
    help="Share of updates left out at either end of each coordinate; only with --tier clear.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["fedavg", "fedadam", "fedyogi"]),
    default="fedavg",
    help="Optimiser of the server.",
)
@click.option(
    "--server-rate", type=_rate, help="Learning rate of the server; default: 1, adaptive 0.003."
)
@click.option("--device-rate", type=_rate, default=1.0, help="Learning rate of the devices.")
@click.option(
    "--proximal", type=click.FloatRange(0), default=0.0, help="Proximal weight mu of FedProx."
)
@options.width_options
@click.option(
    "--buffered", is_flag=True, help="Aggregate asynchronously, without rounds; needs --tier clear."
)
@click.option(
    "--most-stale", type=click.IntRange(0), default=20, help="Maximum update age, in releases."
)
@click.option(
    "--stock",
    is_flag=True,
    help="Let stock Flower nodes take part, which run the bundle of the run; needs --tier clear.",
)
@click.option("--deadline", default=120.0, help="Time limit of a round, seconds.")
@click.option(
    "--host", "hosts", multiple=True, help="Host name of the proxy for the certificate; repeatable."
)
@click.option(
    "--page-port",
    type=click.IntRange(0, 65535),
    help="Port on loopback for devices in web pages; 0 is a free one.",
)
@click.option(
    "--origin",
    "origins",
    multiple=True,
    help="Origin of these pages, such as https://shop.example; repeatable.",
)
@options.link_options
@click.option("--tracking-uri", help="MLflow store; default as for `tactful train`.")
@report_options
@click.option("--json", "as_json", is_flag=True, help="Print each round as a line of JSON.")
@cli.grouped("run", _Run)
@cli.grouped("method", _Method)
@cli.grouped("pages", _Pages)
@cli.grouped("results", options.Results)
def serve_command(
    directory: Path,
    run: _Run,
    cohort: options.Cohort,
    method: _Method,
    widths: options.Widths,
    hosts: tuple[str, ...],
    pages: _Pages,
    link: options.Link,
    receiver: Receiver,
    results: options.Results,
) -> None:
    """Run private training over a SuperLink; a restart resumes the run in DIRECTORY."""
    method.check(run.tier)
    pages.check(run.tier)
    with cli.reported_as(ConfigError, SettingsError):
        optimizer = method.server_optimizer()
        invitation = _invite(directory, run, cohort, method, widths)
    tls = link.tls(directory, hosts)
    bar = cli.progress_bar(quiet=results.as_json, total=run.rounds, unit="release")
    runs = FederatedRuns(directory, tracking_uri=results.tracking_uri)
    logged = runs.begin(invitation)
    reporter = receiver.open(
        directory, name=invitation.run, tier=invitation.tier, plan=plan_of(invitation.plan)
    )

    def show(outcome: Outcome, view: rounds.LiveView) -> None:
        grid.log(_line(view))
        bar.update(outcome.releases - bar.n)
        bar.set_postfix(epsilon=f"{view.epsilon:.3g}")
        figures = _figures(outcome, view)
        reporter.add(figures)  # first: the next start logs all rounds that were kept
        runs.show(logged, figures, outcome.noisy_norm)
        if results.as_json:
            cli.print_json(view)

    with (
        cli.reported_as(TactfulError, FederatedError),
        runs.failing(logged),
        reporter,
        on_stop_signals(leave),
        SuperLink(directory, tls, port=link.port) as superlink,
        superlink.run(invitation.run) as grid,
        pages.transport(invitation, method.deadline) as page_transport,
        bar,
    ):
        with contextlib.suppress(FederatedError):  # a damaged run is refused when it is opened
            reporter.add_lost(read_status(directory))
        runs.resume(logged, reporter.rounds)
        click.echo(
            f"SuperLink on {superlink.address}; put the proxy of {method.proxy} before it, and give"
            f" devices {directory / 'invitation.json'} and {tls.authority}",
            err=True,
        )
        if method.buffered:
            _lead_buffered(directory, invitation, grid, method, optimizer, show)
        else:
            collector = rounds.collector_for(
                invitation,
                grid,
                deadline=method.deadline,
                encoding=method.encoding,
                trim=method.trim,
                pages=page_transport,
            )
            rounds.serve_rounds(
                directory, invitation, collector, optimizer=optimizer, progress=show
            )
    runs.show_plot(logged, reporter.rounds)
    version = runs.finish(logged)
    click.echo(f"intent model version {version} is the champion; package: {directory / 'model'}")


def _invite(
    directory: Path,
    run: _Run,
    cohort: options.Cohort,
    method: _Method,
    widths: options.Widths,
) -> Invitation:
    categories = [line for line in run.catalogue.read_text("utf-8").splitlines() if line]
    widths.check(categories)
    return rounds.invite(
        directory,
        cohort.wishes(epsilon=run.epsilon, rounds=run.rounds),
        categories,
        run=run.name,
        tier=run.tier,
        learning_rate=method.device_rate,
        proximal=method.proximal,
        stock=method.stock,
        **asdict(widths),
    )


def _figures(outcome: Outcome, view: rounds.LiveView) -> FederatedRound:
    """Return the figures of a round for its report."""
    return FederatedRound(
        number=view.round,
        at=now_ms(),
        releases=view.releases,
        epsilon=view.epsilon,
        seconds=view.seconds,
        reason=view.reason,
        asked=outcome.asked,
        reports=outcome.reports,
    )


def _line(view: rounds.LiveView) -> str:
    """Return the line of a round for `flwr log`."""
    done = f"{view.releases} of {view.planned} releases, epsilon {view.epsilon:.3g}"
    return f"round {view.round}: {done}" + (f"; void: {view.reason}" if view.reason else "")


def _lead_buffered(
    directory: Path,
    invitation: Invitation,
    grid: SuperLinkGrid,
    method: _Method,
    optimizer: Optimizer,
    show: Callable[[Outcome, rounds.LiveView], None],
) -> None:
    """Aggregate without rounds, to the end."""
    stream = FlowerStream(
        grid, invitation.vocabulary, deadline=method.deadline, encoding=method.encoding
    )
    serve_buffered(
        directory,
        invitation,
        stream,
        optimizer=optimizer,
        most_stale=method.most_stale,
        progress=show,
    )


@click.command(
    "device",
    epilog=cli.example("tactful federated device device-7 --invitation invitation.json --consent"),
)
@_directory
@options.invitation_option
@click.option("--server", help="host:port of the proxy; without it only DIRECTORY is created.")
@click.option("--authority", type=cli.existing_file, help="PEM file of the only trusted authority.")
@click.option(
    "--consent/--withdraw", default=None, help="Consent to training, or withdraw and delete all."
)
@click.option(
    "--history",
    type=cli.existing_file,
    help="JSON list of visits: lists of categories; visits imported before are skipped.",
)
@click.option(
    "--only-while", help="Train only while this command succeeds, such as a check for power supply."
)
@click.option("--rotate", is_flag=True, help="Create new keys; the server then sees a new device.")
@click.option("--poll", default=30.0, help="Interval between requests, seconds.")
@click.option("--memory", type=click.IntRange(600), default=1024, help="Memory limit, MB.")
def device_command(
    directory: Path,
    invitation: Path,
    server: str | None,
    authority: Path | None,
    consent: bool | None,
    history: Path | None,
    only_while: str | None,
    rotate: bool,
    poll: float,
    memory: int,
) -> None:
    """Take part in a run as one device until stopped; its data stay in DIRECTORY."""
    with (
        cli.reported_as(TactfulError, FederatedError),
        closing(DeviceHome(directory, read_invitation(invitation), rotate=rotate)) as home,
    ):
        if consent is not None:
            (home.events.give_consent if consent else home.withdraw)()
        if history is not None:
            with cli.reported_as(ConfigError, HistoryError):
                visits = read_history(history)
            home.import_history(visits)
        if server is None:
            click.echo(f"have {directory / 'request.json'} enrolled")
            return
        if authority is None:
            raise ConfigError("--authority is missing: a device trusts one authority and no other")
        stopped: list[bool] = []
        with on_stop_signals(lambda: stopped.append(True)):
            take_part(
                home,
                server,
                authority.read_bytes(),
                lambda: bool(stopped),
                only_while=only_while,
                poll=poll,
                memory_mb=memory,
            )
