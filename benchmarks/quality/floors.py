"""Every set in every variant: the served recommendations, with defaults only, beside the peers.

A case is a set in a variant. Its results are kept in `reports/quality` and taken over when the same
commit is measured again, so a run that was stopped continues.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.figures import Figure, commit
from benchmarks.quality.cold_people import KNOWN, ColdCard, ask_cold
from benchmarks.quality.contest import MEASURES, PeerAnswers, answers
from benchmarks.quality.dataset import Dataset, sent_as, squeezed
from benchmarks.quality.installation import Installation, Progress
from benchmarks.quality.protocol import Exam, make_exam
from benchmarks.quality.served import served_lists
from benchmarks.quality.sources import SOURCES
from tactful.demo.datasets import Ask
from tactful.errors import DatasetError, TactfulError
from tactful.training.evaluation import Scorecard
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

_USUAL = [variant for variant in VARIANTS if variant != "as_cart"]

_QUICK_SETS = ("ml_100k", "funnel", "online_retail")
_QUICK_VARIANTS = ("whole", "squeezed_3", "as_click")


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

    @property
    def questions(self) -> int:
        """Most questions of a case."""
        return 600 if self.quick else 3_000


@dataclass(frozen=True)
class Results:
    """Recommendations of the product in one case, in the order of the questions.

    Attributes:
        trained: after a training.
        untrained: of a server that has loaded the events and nothing else.
        cold: of users of whom few items are known; None where they are not asked for.
        refusal: why nothing was trained, so that both are of an untrained server; empty if it was.
    """

    trained: Sequence[tuple[str, ...]]
    untrained: Sequence[tuple[str, ...]]
    cold: Mapping[int, ColdCard] | None = None
    refusal: str = ""


def measure_sets(options: Options) -> list[Figure]:
    """Measure every case; one that fails costs no other its figures."""
    figures: list[Figure] = []
    for name in _names(options):
        try:
            dataset = options.file or SOURCES[name](options.quick)
        except (OSError, DatasetError) as error:
            note = f"skipped: {type(error).__name__}: {error}"[:400]
            figures += _missing(f"{name}_whole", note)
            continue
        for variant in _variants(options):
            figures += _kept(dataset, variant, options)
    return figures


def _names(options: Options) -> Sequence[str]:
    if options.file is not None:
        return [options.file.name]
    if options.only is not None:
        return [options.only]
    return _QUICK_SETS if options.quick else list(SOURCES)


def _variants(options: Options) -> Sequence[str]:
    if options.variants is not None:
        return options.variants
    return _QUICK_VARIANTS if options.quick else _USUAL


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
    """Return the commit with a digest of what is not committed, and of the events."""
    changed = subprocess.run(
        ["git", "diff", "HEAD"], cwd=_ROOT, capture_output=True, check=False
    ).stdout
    data = hashlib.sha256(dataset.timestamp.tobytes())
    data.update("\n".join(map(str, dataset.item)).encode())
    return f"{commit()} {hashlib.sha256(changed).hexdigest()[:16]} {data.hexdigest()[:16]}"


def measure(dataset: Dataset, variant: str, options: Options) -> list[Figure]:
    """Measure one case."""
    case = VARIANTS[variant](dataset)
    name = f"{dataset.name}_{variant}"
    days = (dataset.timestamp.max() - dataset.timestamp.min()) / _DAY
    if variant.startswith("squeezed") and days <= float(variant.partition("_")[2]):
        return [Figure(f"{name}_hr20", None, "1", note=f"the set lasts {days:.1f} days only")]
    exam = make_exam(case, questions=options.questions, earlier=options.questions // 2)
    with _bar(f"{name}: peers") as progress:
        peers = answers(exam, _FOLDER / "peers", progress)
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as folder:
        served = _in_process if options.in_process else _over_http
        results = served(case, exam, Path(folder), name, variant == "whole")
    return _figures(name, _floor(dataset, variant), exam, peers, results)


def _over_http(dataset: Dataset, exam: Exam, folder: Path, name: str, with_cold: bool) -> Results:
    """Load a server, ask it untrained, train, and ask it again; each from the same log."""
    trained = Installation(folder / "trained")
    with trained.serve() as visitor, _bar(f"{name}: loading") as progress:
        visitor.send_all(dataset, progress)
    untrained = _asked(trained.copy(folder / "untrained"), dataset, exam, f"{name}: untrained")
    refusal = ""
    with _bar(f"{name}: training") as progress:
        try:
            trained.train()
        except RuntimeError as error:  # a shop whose data cannot be trained on is served as well
            refusal = str(error)
        progress(1, 1)
    cold = None
    if with_cold:
        other = trained.copy(folder / "cold")
        with other.serve() as visitor, _bar(f"{name}: cold people") as progress:
            cold = ask_cold(visitor, dataset, progress)
        other.delete()
    lists = _asked(trained, dataset, exam, f"{name}: trained")
    return Results(lists, untrained, cold, refusal)


def _asked(
    installation: Installation, dataset: Dataset, exam: Exam, title: str
) -> list[tuple[str, ...]]:
    with installation.serve() as visitor, _bar(title) as progress:
        lists = visitor.ask_all(dataset, exam.asks, progress)
    installation.delete()
    return lists


class _Played:
    """A set as `served_lists` takes it."""

    def __init__(self, dataset: Dataset, asks: Sequence[Ask]) -> None:
        self.items, self.users = dataset.items, dataset.users
        self.timestamp, self.cut = dataset.timestamp, dataset.cut
        self.events, self.asks = dataset.events, asks


def _in_process(dataset: Dataset, exam: Exam, folder: Path, name: str, with_cold: bool) -> Results:
    """Answer without a server: quicker, and without upserts that arrive later."""

    def lists(title: str, options: TrainingOptions | None) -> list[tuple[str, ...]]:
        with _bar(f"{name}: {title}") as progress:
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


def _figures(
    name: str, floor: float, exam: Exam, peers: PeerAnswers, results: Results
) -> list[Figure]:
    trained, untrained = _card(exam, results.trained), _card(exam, results.untrained)
    note = (
        f"served untrained: {results.refusal}"[:300] if results.refusal else "served with defaults"
    )
    figures: list[Figure] = []
    for measure in MEASURES:
        best = peers.best(measure)
        card = peers.card(best, measure)
        figures += [
            _estimate(f"{name}_{measure}", trained, measure, note),
            _ratio(f"{name}_{measure}_vs_best_peer", trained, card, measure, best, floor),
        ]
        figures += [
            _estimate(
                f"{name}_{measure}_{peer}",
                peers.card(peer, measure),
                measure,
                peers.settings[peer, measure],
            )
            for peer in peers.names
        ]
    figures += [
        _estimate(f"{name}_untrained_hr20", untrained, "hr20", "loaded, nothing trained"),
        _ratio(
            f"{name}_untrained_hr20_vs_v_sknn",
            untrained,
            peers.card("v_sknn", "hr20"),
            "hr20",
            "v_sknn",
            1.0,
        ),
        *_new_answers(name, exam, peers, results),
        *_cold(name, results),
    ]
    return figures


def _new_answers(name: str, exam: Exam, peers: PeerAnswers, results: Results) -> list[Figure]:
    """Measure the questions whose answer the person had not touched before."""
    rows = [
        row
        for row, question in enumerate(exam.final.questions)
        if not question.taken & {*question.prefix, *question.history}
    ]
    title = f"{name}_new_mrr20"
    if not rows:
        return [Figure(title, None, "1", note="every answer was touched before")]
    served = _card(exam, results.trained, rows)
    other = peers.card("co_visitation", "mrr20", rows)
    return [
        _estimate(title, served, "mrr20", "answers that the person had not touched before"),
        _ratio(f"{title}_vs_co_visitation", served, other, "mrr20", "co_visitation", 1.0),
    ]


def _cold(name: str, results: Results) -> list[Figure]:
    figures = []
    for known in KNOWN if results.cold else ():
        assert results.cold is not None
        card = results.cold[known]
        title = f"{name}_cold_{known}_hr20"
        if not len(card.served):
            figures.append(Figure(title, None, "1", note="nobody has so many items"))
            continue
        gain = card.served.lead(card.popular)
        note = f"less popularity ({card.popular.mean('hr20'):.3f}); "
        note += _verdict(gain.low, gain.high, 0.01)
        figures += [
            _estimate(title, card.served, "hr20", f"{known} known items, any of the next five"),
            Figure(f"{title}_gain", gain.value, "1", gain.low, gain.high, len(card.served), note),
        ]
    return figures


def _card(
    exam: Exam, lists: Sequence[tuple[str, ...]], rows: Sequence[int] | None = None
) -> Scorecard:
    card = Scorecard()
    for row in range(len(exam.asks)) if rows is None else rows:
        card.add(exam.asks[row].person, lists[row], exam.asks[row].taken)
    return card


def _estimate(name: str, card: Scorecard, measure: str, note: str) -> Figure:
    found = card.estimate(measure)
    return Figure(name, found.value, "1", found.low, found.high, len(card), note)


def _ratio(
    name: str, served: Scorecard, other: Scorecard, measure: str, who: str, floor: float
) -> Figure:
    if not other.mean(measure):
        return Figure(name, None, "1", note=f"{who} scored nothing, so there is no ratio")
    found = served.ratio(other, measure)
    note = f"by {who} ({other.mean(measure):.3f}); floor {floor:g}; "
    note += _verdict(found.low, found.high, 1.0)
    low, high = min(found.low, found.value), max(found.high, found.value)
    return Figure(name, found.value, "1", low, high, len(other), note)


def _verdict(low: float, high: float, level: float) -> str:
    if low > level:
        return f"surely above {level:g}"
    return f"surely below {level:g}" if high < level else f"the 95 % interval holds {level:g}"


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Progress]:
    """Show progress on stderr."""
    with tqdm(desc=title, unit="", dynamic_ncols=True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
