"""Figures of one case: the product's recommendations beside those of the peers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.figures import Figure
from benchmarks.quality.cold_people import KNOWN, ColdCard
from benchmarks.quality.contest import MEASURES, PeerAnswers, card_of
from benchmarks.quality.dataset import Dataset
from benchmarks.quality.item_peers import CO_VISITATION
from benchmarks.quality.protocol import Exam
from tactful.training.evaluation import Scorecard


@dataclass(frozen=True)
class Results:
    """Recommendations of the product in one case, in the order of the questions.

    Attributes:
        trained: after a training.
        untrained: of a server that has loaded the events and nothing else.
        cold: of users of whom few items are known; None where they are not asked for.
        new_only: with `exclude_seen`, by number of the question; only answers that are new.
        offline_hr20: hit rate that the training printed.
        refusal: why nothing was trained, so that both are of an untrained server; empty if it was.
    """

    trained: Sequence[tuple[str, ...]]
    untrained: Sequence[tuple[str, ...]]
    cold: Mapping[int, ColdCard] | None = None
    new_only: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    offline_hr20: float | None = None
    refusal: str = ""


def case_figures(
    name: str, floor: float, case: tuple[Dataset, Exam], peers: PeerAnswers, results: Results
) -> list[Figure]:
    """Compare the recommendations of one case with those of the peers.

    Args:
        name: begins the names of the figures.
        floor: ratio to the best peer that is aimed at.
        case: the set and its questions.
        peers: their answers.
        results: the product's.
    """
    dataset, exam = case
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
                peers.note(peer, measure),
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
        *_offline(name, trained, results),
        *_possible(name, dataset, exam, trained),
        *_new_answers(name, exam, peers, results),
        *_cold(name, results),
    ]
    return figures


def _offline(name: str, trained: Scorecard, results: Results) -> list[Figure]:
    """Compare the hit rate that the training printed with the served one."""
    served = trained.mean("hr20")
    if results.offline_hr20 is None or not served:
        return []
    note = f"printed by the training: {results.offline_hr20:.3f}; floor 0.9 to 1.1"
    return [Figure(f"{name}_offline_hr20_vs_served", results.offline_hr20 / served, "1", note=note)]


def _possible(name: str, dataset: Dataset, exam: Exam, trained: Scorecard) -> list[Figure]:
    """Compare the served hit rate with the best possible one, where it is known."""
    if dataset.best is None:
        return []
    best = Scorecard()
    for ask, question in zip(exam.asks, exam.final.questions, strict=True):
        seen = [exam.names[item] for item in question.prefix]
        best.add(ask.person, list(dataset.best(ask.person, seen)), ask.taken)
    return [_ratio(f"{name}_hr20_vs_possible", trained, best, "hr20", "the best possible", 0.9)]


def _new_answers(name: str, exam: Exam, peers: PeerAnswers, results: Results) -> list[Figure]:
    """Measure the questions whose answer the person had not touched before."""
    rows = exam.new_rows
    title = f"{name}_new_mrr20"
    if not rows:
        return [Figure(title, None, "1", note="every answer was touched before")]
    served = _card(exam, results.trained, rows)
    other = peers.card("co_visitation", "mrr20", rows)
    figures = [
        _estimate(title, served, "mrr20", "answers that the person had not touched before"),
        _ratio(f"{title}_vs_co_visitation", served, other, "mrr20", "co_visitation", 1.0),
    ]
    if results.new_only:
        served = Scorecard()
        for row in rows:
            served.add(exam.asks[row].person, results.new_only[row], exam.asks[row].taken)
        other = card_of(exam.final, peers.new_only(CO_VISITATION, "mrr20"), rows)
        title = f"{name}_exclude_seen_mrr20"
        figures += [
            _estimate(title, served, "mrr20", "the same questions with exclude_seen"),
            _ratio(f"{title}_vs_co_visitation", served, other, "mrr20", "co_visitation", 1.0),
        ]
    return figures


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
    if not math.isfinite(found.low + found.high):  # some resamples have nothing to divide by
        note += f"no interval: {who} scored in too few of {len(other)} questions"
        return Figure(name, found.value, "1", runs=len(other), note=note)
    note += _verdict(found.low, found.high, 1.0)
    low, high = min(found.low, found.value), max(found.high, found.value)
    return Figure(name, found.value, "1", low, high, len(other), note)


def _verdict(low: float, high: float, level: float) -> str:
    if low > level:
        return f"surely above {level:g}"
    return f"surely below {level:g}" if high < level else f"the 95 % interval holds {level:g}"
