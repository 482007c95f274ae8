"""The demo: a year of real shopping, replayed, trained on and evaluated.

The server runs as a process of its own and is spoken to over HTTP only. Training runs as another
process, the intent model's rounds run here meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tactful.client import Client
from tactful.demo.datasets import Replay, completejourney, online_retail
from tactful.demo.replay import Outcomes, Replayer
from tactful.demo.report import Report, plot_quality, quality_section, quality_table, verdict
from tactful.demo.server_process import clear, last_line, running_server, write_settings
from tactful.errors import DatasetError, TactfulError
from tactful.util.extras import absent_modules
from tactful_bandits.analysis.comparison import compare, fixed_horizon_interval, level
from tactful_bandits.analysis.sample_ratio import check_sample_ratio
from tactful_bandits.analysis.samples import Ratio

EXPERIMENT = "ranking"
LEARNED = "learned"
HEURISTIC = "heuristic"
STATISTIC = "lines_1h"

_QUICK_HOUSEHOLDS = 220
_INTENT_NEEDS = ("torch", "flwr")


@dataclass(frozen=True)
class DemoOptions:
    """Options of the demo."""

    data: str = "completejourney"  # ``completejourney`` or ``online-retail``
    path: Path | None = None  # the UCI file, for online-retail
    quick: bool = False  # a slice, in a few minutes
    directory: Path = Path("tactful-data/demo")  # data directory of the run; it is made anew
    reports: Path = Path("reports")  # where report and picture go
    port: int = 8420  # TCP port of the server, so that a dashboard can watch; 0 takes a free one
    # MLflow store; None takes the default of `tactful.models.mlflow_registry`
    tracking_uri: str | None = None


def run(options: DemoOptions) -> dict[str, Any]:
    """Run the demo, writing ``demo.json`` and ``demo.png`` as it goes; return the report.

    Raises:
        DatasetError: if the data cannot be read.
        TactfulError: if the platform fails on the way; the message says where.
    """
    started = time.perf_counter()
    _say(f"Reading {options.data}")
    replay = _load(options)
    _say(replay.title)
    if reason := _why_no_intent():
        _say(f"The intent model is left out: {reason}")
    clear(options.directory)
    report = Report(
        options.reports / "demo.json",
        data=replay.title,
        quick=options.quick,
        protocol=replay.protocol,
        questions=len(replay.asks),
        real_and_simulated=list(replay.notes),
        environment={
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
        },
    )
    with _server(options, replay) as (client, url):
        report.put(server=url)
        replayer = Replayer(client, replay)
        report.stage("upserting")
        with _bar(report, "items and users", len(replay.items) + len(replay.users)) as advance:
            replayer.upsert(advance)
        report.stage("replaying the past")
        with _bar(report, "events before the cut", replay.cut) as advance:
            replayer.send(replay.cut, advance)
        replayer.settle()
        report.stage("training")
        intent = ThreadPoolExecutor(1).submit(_run_intent, replay, quick=options.quick)
        report.put(model=_train(options, report))
        _await_model(client, report.content["model"]["version"])
        report.put(federated=intent.result())
        report.stage("asking")
        with _bar(report, "questions", len(replay.asks)) as advance:
            outcomes = replayer.ask(replay.asks, EXPERIMENT, LEARNED, progress=advance)
        # Items taken after the last recommendations belong in the log as well.
        replayer.send(len(replay), lambda count: None)
        report.stage("scoring")
        shares = client.models()["experiment"]["arms"]
        report.put(**_score(outcomes, replay), experiment=_experiment(outcomes, shares))
        report.put(statistics=_statistics(client))
    plot_quality(report.content["quality"], replay.title, options.reports / "demo.png")
    report.put(total_s=round(time.perf_counter() - started, 1))
    report.finish()
    return report.content


def summary(report: dict[str, Any], options: DemoOptions) -> str:
    """Return the result of the demo in words."""
    latency, freshness = report["latency_ms"], report["freshness_ms"]
    experiment, intent = report["experiment"], report["federated"]
    published = report["statistics"]
    lines = [
        "",
        f"{report['questions']:,} questions. {report['protocol']}",
        "",
        quality_table(report["quality"]),
        "",
        report["verdict"],
        f"Recommendation over HTTP: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms "
        f"({latency['requests']:,} requests). Event to readable feature: "
        f"p50 {freshness['p50']:.1f} ms, p99 {freshness['p99']:.1f} ms.",
        f"Experiment {experiment['key']!r}: " + experiment["words"],
        f"Private statistics: {published['released_panes']:,} hourly panes released, "
        f"epsilon {published['epsilon']:g} for {published['unit']}.",
        f"Intent model on {intent['households']} devices: {intent['verdict']}"
        if "verdict" in intent
        else f"Intent model: left out, {intent['skipped']}",
        "",
        "What is real and what is simulated:",
        *(f"- {note}" for note in report["real_and_simulated"]),
        "",
        f"Took {report['total_s']:.0f} s. Report: {options.reports / 'demo.json'}, "
        f"picture: {options.reports / 'demo.png'}",
        "",
        "Go on with:",
        f"  tactful serve --dev --config {options.directory / 'tactful.toml'}",
        "  tactful dashboard",
    ]
    return "\n".join(lines)


def _load(options: DemoOptions) -> Replay:
    if options.data == "completejourney":
        return completejourney(households=_QUICK_HOUSEHOLDS if options.quick else None)
    if options.data == "online-retail":
        if options.path is None:
            raise DatasetError("online-retail needs the UCI file: give it with --path FILE")
        return online_retail(options.path, quick=options.quick)
    raise DatasetError(f"unknown data set {options.data!r}: completejourney or online-retail")


@contextlib.contextmanager
def _server(options: DemoOptions, replay: Replay) -> Iterator[tuple[Client, str]]:
    """Run a server, with a client of it."""
    reports = json.dumps(str(options.reports.resolve()))
    write_settings(
        options.directory,
        f'reports = {reports}\n\n[statistics]\ndefinitions = "statistics.yaml"\nclock = "replay"\n',
    )
    _write_statistics(options.directory / "statistics.yaml", replay)
    with running_server(options.directory, options.port) as (_, url):
        _say(f"The platform serves on {url}; watch it with: tactful dashboard --url {url}")
        with Client(url, timeout=60.0) as client:
            yield client, url


def _write_statistics(path: Path, replay: Replay) -> None:
    """Publish hourly counts by department or family of the catalogue.

    A shop takes the keys from its own public list, never from what was bought. Complete Journey has
    such a list; the invoices of Online Retail, and a quick run, have none but what was sold.
    """
    keys = sorted({i["properties"].get(replay.category_property, "") for i in replay.items} - {""})
    statistic = {
        "name": STATISTIC,
        "title": f"Lines taken per hour and {replay.category_property}",
        "event": "add_to_cart",
        "by": f"properties.{replay.category_property}",
        "keys": keys,
        "pane": "1h",
        "cap": 20,
        "epsilon": "1",
    }
    definitions = {"daily_epsilon": "1", "statistics": [statistic]}
    path.write_text(json.dumps(definitions, indent=1), "utf-8")


def _train(options: DemoOptions, report: Report) -> dict[str, Any]:
    """Run ``tactful train`` as a child process and follow its progress."""
    command = [sys.executable, "-m", "tactful", "train", "--promote", "--json"]
    command += ["--config", str(options.directory / "tactful.toml"), "--name", "ranker"]
    command += ["--lists", "2000" if options.quick else "6000"]
    environment = dict(os.environ)
    if options.tracking_uri is not None:
        environment["MLFLOW_TRACKING_URI"] = options.tracking_uri
    log_path = options.directory / "train.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
    assert process.stdout is not None
    result: dict[str, Any] = {}
    stage, bar = "", tqdm(total=0, disable=True)
    for line in process.stdout:
        message = json.loads(line)
        if "stage" not in message:
            result = message
            continue
        if message["stage"] != stage:
            bar.close()
            stage = message["stage"]
            bar = tqdm(desc=f"training: {stage}", total=message["total"], **_BAR)
        bar.update(message["done"] - bar.n)
        report.progress(message["done"] / max(message["total"], 1))
    bar.close()
    if process.wait() != 0 or not result:
        raise TactfulError(f"training failed: {last_line(log_path)}")
    return result


def _await_model(client: Client, version: str, *, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while True:
        models = client.models()
        if (models.get("champion") or {}).get("version") == version:
            return
        if time.monotonic() > deadline:
            raise TactfulError(
                f"the server did not take over model {version} within {timeout:g} s: "
                f"{models.get('refused') or 'its log says why'}"
            )
        time.sleep(0.1)


def _why_no_intent() -> str | None:
    """Return why the intent model cannot be trained here, and how to change it."""
    absent = absent_modules(_INTENT_NEEDS)
    verb = "is" if len(absent) == 1 else "are"
    names = " and ".join(absent)
    return f"{names} {verb} not installed: pip install 'tactful[federated]'" if absent else None


def _run_intent(replay: Replay, *, quick: bool) -> dict[str, Any]:
    """Run the rounds of the intent model and return their section of the report."""
    if reason := _why_no_intent():
        return {"skipped": reason, "households": 0, "rounds": []}
    try:
        from tactful_federated.simulation.plain import simulate

        result = simulate(
            category_histories(replay),
            {str(item["category"]) for item in replay.items if "category" in item},
            households=48,
            rounds=30 if quick else 60,
        )
    except Exception as error:  # the rest of the demo does not depend on it
        return {"skipped": f"failed: {error}", "households": 0, "rounds": []}
    section = _fields(result, "households top1 top5 markov_top1 markov_top5 popularity_top1")
    section |= _fields(result, "popularity_top5 steps task verdict privacy")
    rounds = [_fields(each, "round loss top1 top5 reports") for each in result.rounds]
    return {**section, "rounds": rounds}


def category_histories(replay: Replay) -> dict[str, list[list[str]]]:
    """Return each user's visits before the cut as lists of categories."""
    category = {str(i["item_id"]): str(i["category"]) for i in replay.items if "category" in i}
    visits: dict[str, dict[str, list[str]]] = {}
    for number in range(replay.cut):
        item, person = replay.item[number], replay.person[number]
        if item in category and replay.kind[number] == 0 and not person.startswith("guest-"):
            own = visits.setdefault(person, {})
            own.setdefault(replay.session[number], []).append(category[item])
    return {person: list(own.values()) for person, own in visits.items()}


def _score(outcomes: Outcomes, replay: Replay) -> dict[str, Any]:
    """Quality, verdict, latency and freshness."""
    size = len(replay.items)  # a baseline may show items that are not available
    rows = [quality_section("served", "Served ranking", outcomes.served.quality(size))]
    rows += [
        quality_section(name, outcomes.labels[name], card.quality(size))
        for name, card in outcomes.baselines.items()
    ]
    served = rows[0]["hr20"]["value"]
    rates = {row["name"]: row["hr20"]["value"] for row in rows[1:]}
    best = max(sorted(rates), key=lambda name: rates[name])
    label, rate = outcomes.labels[best], rates[best]
    lead = outcomes.served.lead(outcomes.baselines[best])
    return {
        "quality": rows,
        "verdict": verdict(served, rate, label, lead),
        "beats_every_baseline": lead.low > 0,
        "lead": {"over": best, **_fields(lead, "value low high")},
        "latency_ms": _percentiles(outcomes.latency_ms, "requests"),
        "freshness_ms": _percentiles(outcomes.freshness_ms, "samples"),
        "channels": dict(Counter(outcomes.answered).most_common()),
        "short_lists": outcomes.short,
    }


def _experiment(outcomes: Outcomes, shares: dict[str, float]) -> dict[str, Any]:
    """Read out the experiment once, at the end; users are the randomised units."""
    samples: dict[str, Ratio] = {}
    arms = []
    for arm, people in sorted(outcomes.arms.items()):
        hits, asked = np.array(list(people.values()), np.float64).T
        row: dict[str, Any] = {
            "arm": arm,
            "units": len(people),
            "questions": int(asked.sum()),
            "hits": int(hits.sum()),
            "rate": float(hits.sum() / asked.sum()),
        }
        if len(people) >= 2:
            samples[arm] = Ratio.from_units(hits, asked)
            interval = fixed_horizon_interval(level(samples[arm]))
            row.update(low=interval.low, high=interval.high)
        arms.append(row)
    section: dict[str, Any] = {"key": EXPERIMENT, "arms": arms}
    ratio = check_sample_ratio(
        [len(outcomes.arms.get(arm, ())) for arm in shares], list(shares.values())
    )
    section["sample_ratio_mismatch"] = ratio.mismatch
    if samples.keys() >= {LEARNED, HEURISTIC}:
        compared = compare(samples[HEURISTIC], samples[LEARNED])
        value, fixed = compared.estimate.value, compared.fixed_horizon
        section["difference"] = {
            "value": value,
            **_fields(fixed, "low high method"),
            "anytime": _fields(compared.anytime, "low high"),
        }
        section["words"] = (
            f"learned minus heuristic {value:+.3f} hits a question "
            f"[{fixed.low:+.3f}, {fixed.high:+.3f}]; "
            + ("" if fixed.low > 0 or fixed.high < 0 else "inconclusive; ")
            + ("the arms' sizes do NOT fit the split; " if ratio.mismatch else "")
            + f"{len(outcomes.arms[LEARNED])} and {len(outcomes.arms[HEURISTIC])} people."
        )
    else:
        section["words"] = "one arm had fewer than two people: no comparison."
    return section


def _statistics(client: Client) -> dict[str, Any]:
    """Return the published statistics, with their last day as a sample."""
    about = next(s for s in client.statistics_list() if s.name == STATISTIC)
    cells = client.statistics(STATISTIC).cells
    panes = sorted({cell.pane_start for cell in cells})
    recent = [cell for cell in cells if cell.pane_start in panes[-24:]]
    return {
        **_fields(about, "name title epsilon cap unit"),
        "released_panes": len(panes),
        "sample": [_fields(cell, "pane_start key value low high") for cell in recent],
    }


def _fields(record: object, names: str) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names.split()}


def _percentiles(values: list[float], count: str) -> dict[str, Any]:
    if not values:
        return {"p50": None, "p99": None, count: 0}
    p50, p99 = np.percentile(values, [50, 99]).tolist()
    return {"p50": round(p50, 2), "p99": round(p99, 2), count: len(values)}


_BAR: dict[str, Any] = {
    **{"unit": "", "unit_scale": True, "dynamic_ncols": True, "leave": True},
    "disable": None,  # where standard error is no terminal
}


@contextlib.contextmanager
def _bar(report: Report, what: str, total: int) -> Iterator[Any]:
    """Update a progress bar and the report."""
    done = 0
    with tqdm(desc=what, total=total, **_BAR) as bar:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(count)
            report.progress(done / max(total, 1))

        yield advance


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
