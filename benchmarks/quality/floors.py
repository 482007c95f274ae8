"""Every set in every variant: the served recommendations, with defaults only, beside the peers.

A case is a set in a variant. Its results are kept in `reports/quality` and taken over when the same
code is measured again, so a run that was stopped continues. Cases of a whole run are measured in
processes of their own, one for each core.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.progress import progress_bar
from benchmarks.quality.case_figures import Results, case_figures
from benchmarks.quality.case_processes import run_apart
from benchmarks.quality.cold_people import ask_cold
from benchmarks.quality.contest import MEASURES, answers
from benchmarks.quality.dataset import Dataset, sent_as, squeezed
from benchmarks.quality.generated import GENERATED
from benchmarks.quality.installation import Installation
from benchmarks.quality.protocol import Exam, make_exam
from benchmarks.quality.sequence_models import sequence_peers
from benchmarks.quality.served import served_lists
from benchmarks.quality.sources import SOURCES
from tactful.demo.datasets import Ask
from tactful.errors import DatasetError, TactfulError
from tactful.training.options import TrainingOptions

_ROOT = Path(__file__).resolve().parents[2]
_FOLDER = _ROOT / "reports" / "quality"
_DAY = 86_400_000

VARIANTS: Mapping[str, Callable[[Dataset], Dataset]] = {
    "whole": lambda dataset: dataset,
    "squeezed_3": lambda dataset: squeezed(dataset, 3),
    "squeezed_10": lambda dataset: squeezed(dataset, 10),
    "squeezed_30": lambda dataset: squeezed(dataset, 30),
    "as_view": lambda dataset: sent_as(dataset, "view"),
    "as_click": lambda dataset: sent_as(dataset, "click"),
    "as_cart": lambda dataset: sent_as(dataset, "add_to_cart"),
}
"""What is done to a set before it is sent."""

# The code that decides about the figures, and what it is compared with.
_CODE = (
    "platform/tactful",
    "streaming/tactful_streaming",
    "bandits/tactful_bandits",
    "privacy/tactful_privacy",
    "benchmarks/quality",
    "benchmarks/peers",
)
_LONGEST = ("completejourney", "online_retail")
_MOST_CASES = 4

_USUAL = [variant for variant in VARIANTS if variant != "as_cart"]

_QUICK: Mapping[str, Sequence[str]] = {
    "ml_100k": ("whole", "as_click"),
    "funnel": ("whole",),
    "online_retail": ("squeezed_3", "as_click"),
}
_QUICK_VARIANTS = ("whole", "squeezed_3", "as_click")
"""Variants of a quick run of one set alone."""


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Attributes:
        quick: fewer sets and variants, and fewer questions.
        only: name of the one set to measure.
        variants: names of those to measure; None: all.
        file: a stranger's file to measure instead of the sets.
        in_process: answer without HTTP, for a look while developing.
    """

    quick: bool = False
    only: str | None = None
    variants: Sequence[str] | None = None
    file: Dataset | None = None
    in_process: bool = False

    def questions(self, variant: str) -> int:
        """Return how many questions a case has at most."""
        if self.quick:
            return 600
        return 3_000 if variant == "whole" else 1_500


def measure_sets(options: Options) -> list[Figure]:
    """Measure every case; one that fails costs no other its figures."""
    if options.file is None and not options.in_process:
        _measure_apart(options)
    figures: list[Figure] = []
    for name in _names(options):
        try:
            dataset = options.file or {**GENERATED, **SOURCES}[name](options.quick)
        except (OSError, DatasetError) as error:
            note = f"skipped: {type(error).__name__}: {error}"[:400]
            figures += _missing(f"{name}_whole", note)
            continue
        for variant in _variants(name, options):
            figures += _kept(dataset, variant, options)
    return figures


def _measure_apart(options: Options) -> None:
    """Measure the cases of a run of several, each in a process of its own, into their files."""
    cases = [(name, variant) for name in _names(options) for variant in _variants(name, options)]
    if len(cases) < 2:
        return

    def dear(case: tuple[str, str]) -> tuple[bool, int]:
        name, variant = case
        return variant != "whole", _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)

    program = [sys.executable, "-m", "benchmarks.quality.run", *["--quick"] * options.quick]
    commands = {
        f"{name}-{variant}": [*program, "--only", name, "--variant", variant]
        for name, variant in sorted(cases, key=dear)  # the longest first: they leave no core idle
    }
    run_apart(commands, _FOLDER / "logs", most=min(os.cpu_count() or 1, _MOST_CASES))


def _names(options: Options) -> Sequence[str]:
    if options.file is not None:
        return [options.file.name]
    if options.only is not None:
        return [options.only]
    return list(_QUICK if options.quick else SOURCES)


def _variants(name: str, options: Options) -> Sequence[str]:
    if options.variants is not None:
        return options.variants
    if not options.quick:
        return _USUAL
    alone = options.only is not None or options.file is not None
    return _QUICK_VARIANTS if alone else _QUICK[name]


def _kept(dataset: Dataset, variant: str, options: Options) -> list[Figure]:
    """Return the figures of a case, from the file of an equal run if there is one."""
    parts = [dataset.name, variant]
    parts += ["quick"] * options.quick + ["in-process"] * options.in_process
    path = _FOLDER / f"{'-'.join(parts)}.json"
    key = _key(dataset)
    if path.exists() and (record := json.loads(path.read_text("utf-8")))["key"] == key:
        return [Figure(**figure) for figure in record["figures"]]
    try:
        figures = measure(dataset, variant, options)
    except Exception as error:  # one case that cannot be measured must not cost the others
        traceback.print_exc()
        note = f"could not be measured: {type(error).__name__}: {error}"[:400]
        return _missing(f"{dataset.name}_{variant}", note)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"key": key, "figures": [dataclasses.asdict(figure) for figure in figures]}
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return figures


def _missing(name: str, note: str) -> list[Figure]:
    return [Figure(f"{name}_{measure}_vs_best_peer", None, "1", note=note) for measure in MEASURES]


def _key(dataset: Dataset) -> str:
    """Return digests of the code, with what is not committed, and of the events."""
    code = hashlib.sha256()
    for command in (["git", "ls-tree", "HEAD"], ["git", "diff", "HEAD", "--"]):
        done = subprocess.run([*command, *_CODE], cwd=_ROOT, capture_output=True, check=False)
        code.update(done.stdout)
    data = hashlib.sha256(dataset.timestamp.tobytes())
    data.update("\n".join(map(str, dataset.item)).encode())
    return f"{code.hexdigest()[:32]} {data.hexdigest()[:16]}"


def measure(dataset: Dataset, variant: str, options: Options) -> list[Figure]:
    """Measure one case."""
    case = VARIANTS[variant](dataset)
    name = f"{dataset.name}_{variant}"
    days = (dataset.timestamp.max() - dataset.timestamp.min()) / _DAY
    if variant.startswith("squeezed") and days <= float(variant.partition("_")[2]):
        return [Figure(f"{name}_hr20", None, "1", note=f"the set lasts {days:.1f} days only")]
    questions = options.questions(variant)
    exam = make_exam(case, questions=questions, earlier=questions // 2)
    models, missing = sequence_peers() if variant == "whole" and not options.quick else ([], {})
    with progress_bar(f"{name}: peers") as progress:
        peers = answers(exam, _FOLDER / "peers", progress, models=models)
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as folder:
        served = _in_process if options.in_process else _over_http
        results = served(case, exam, Path(folder), name, variant == "whole")
    figures = case_figures(name, _floor(dataset, variant), (case, exam), peers, results)
    return figures + [
        Figure(f"{name}_{measure}_{peer}", None, "1", note=reason)
        for peer, reason in missing.items()
        for measure in MEASURES
    ]


def _over_http(dataset: Dataset, exam: Exam, folder: Path, name: str, with_cold: bool) -> Results:
    """Load a server, ask it untrained, train, and ask it again; each from the same log."""
    trained = Installation(folder / "trained")
    with trained.serve() as visitor, progress_bar(f"{name}: loading") as progress:
        visitor.send_all(dataset, progress)
    loaded = trained.copy(folder / "untrained")
    loaded.train(promote=("--recall-only",))  # as the server does itself, every 20 seconds
    untrained, _ = _asked(loaded, dataset, exam, f"{name}: untrained")
    refusal, metrics = "", {}
    with progress_bar(f"{name}: training") as progress:
        try:
            metrics = trained.train()["metrics"]
        except RuntimeError as error:  # a shop whose data cannot be trained on is served as well
            refusal = str(error)
        progress(1, 1)
    cold = None
    if with_cold:
        other = trained.copy(folder / "cold")
        with other.serve() as visitor, progress_bar(f"{name}: cold people") as progress:
            cold = ask_cold(visitor, dataset, progress)
        other.delete()
    lists, new = _asked(trained, dataset, exam, f"{name}: trained", exam.new_rows)
    return Results(lists, untrained, cold, new, metrics.get("hr20"), refusal)


def _asked(
    installation: Installation,
    dataset: Dataset,
    exam: Exam,
    title: str,
    new_only: Collection[int] = (),
) -> tuple[list[tuple[str, ...]], dict[int, tuple[str, ...]]]:
    with installation.serve() as visitor, progress_bar(title) as progress:
        answered = visitor.ask_all(dataset, exam.asks, progress, new_only=new_only)
    installation.delete()
    return answered


class _Played:
    """A set as `served_lists` takes it."""

    def __init__(self, dataset: Dataset, asks: Sequence[Ask]) -> None:
        self.items, self.users = dataset.items, dataset.users
        self.timestamp, self.cut = dataset.timestamp, dataset.cut
        self.events, self.asks = dataset.events, asks


def _in_process(dataset: Dataset, exam: Exam, folder: Path, name: str, with_cold: bool) -> Results:
    """Answer without a server: quicker, and without upserts that arrive later."""

    def lists(title: str, options: TrainingOptions | None) -> list[tuple[str, ...]]:
        with progress_bar(f"{name}: {title}") as progress:
            return served_lists(
                _Played(dataset, exam.asks),
                folder / title,
                options,
                tells_visit=dataset.sends_session,
                progress=progress,
            )

    untrained = lists("untrained", None)
    try:
        return Results(lists("trained", TrainingOptions()), untrained)
    except TactfulError as error:
        return Results(untrained, untrained, refusal=str(error))


def _floor(dataset: Dataset, variant: str) -> float:
    """Return the least ratio to the best peer that is aimed at."""
    if dataset.name in ("online_retail", "completejourney") and variant == "whole":
        return 1.10
    return 1.05 if variant == "whole" else 1.02
