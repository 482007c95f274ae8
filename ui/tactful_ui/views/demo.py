"""Page "Demo": the demo's report, live while the demo runs."""

from __future__ import annotations

import streamlit as st

from tactful_ui.components import charts, formats, shell, times
from tactful_ui.report import METRICS, Experiment, Federated, Model, Report, Statistics

_MOST_GAINS = 12


def page() -> None:
    """Draw the page."""
    shell.heading(
        "Demo",
        "Shopping data replayed in time order through the platform, which learns from every event "
        "and recommends items before each basket.",
    )
    shell.live(_draw)


def _draw(report: Report) -> None:
    _progress(report)
    _headline(report)
    _quality(report)
    _experiment(report.experiment)
    _intent(report.federated)
    _model(report.model)
    _statistics(report.statistics)
    _real_and_simulated(report.real_and_simulated)
    _machine(report)


def _progress(report: Report) -> None:
    if report.finished:
        seconds = None
        if report.started_at and report.finished_at:
            seconds = (report.finished_at - report.started_at).total_seconds()
        state = f"finished {times.moment(report.finished_at)}, took {formats.duration(seconds)}"
    else:
        state = f"started {times.moment(report.started_at)}"
    size = "quick slice" if report.quick else "full run"
    size += "" if report.questions is None else f" · {formats.count(report.questions)} questions"
    st.markdown(f"**{formats.plain(report.data or report.name)}** · {size} · {state}")
    if not report.finished:
        stage = formats.plain(report.stage or "starting")
        share = formats.percent(report.progress, 0)
        st.progress(report.progress, text=f"{stage} · {share} of this stage")


def _headline(report: Report) -> None:
    served, baseline = report.served, report.best_baseline
    hit_rate = served.metrics.get("hr20") if served else None
    baseline_rate = baseline.metrics["hr20"] if baseline else None
    gain = None
    if hit_rate and baseline_rate and baseline:
        lead = formats.signed(hit_rate.value - baseline_rate.value)
        # Streamlit draws the arrow down only for a hyphen.
        gain = f"{lead.replace('−', '-')} vs {formats.plain(baseline.label)}"
    latency, freshness = report.latency, report.freshness
    shown = [
        (
            "HR@20 served [95 % interval]",
            formats.estimate(hit_rate),
            gain,
            f"Hit rate: {formats.METRIC_MEANINGS['hr20']}. Below: the lead over the best baseline.",
        ),
        (
            "Recommend p50",
            formats.milliseconds(latency.p50 if latency else None),
            None,
            "Time from sending a request over HTTP to its answer; half of them were faster.",
        ),
        (
            "Recommend p99",
            formats.milliseconds(latency.p99 if latency else None),
            None,
            "Time of the same requests; 99 of 100 were faster.",
        ),
        (
            "Freshness p99",
            formats.milliseconds(freshness.p99 if freshness else None),
            None,
            "Time from accepting an event until the features change; 99 of 100 were faster.",
        ),
    ]
    for place, (label, value, change, text) in zip(st.columns([5, 3, 3, 3]), shown, strict=True):
        place.metric(label, value, change, border=True, help=text, height="stretch")


def _quality(report: Report) -> None:
    st.subheader("Recommendation quality", anchor=False)
    if not report.quality:
        shell.pending("Quality against the baselines")
        return
    if report.verdict:
        served = report.served.metrics.get("hr20") if report.served else None
        baseline = report.best_baseline.metrics["hr20"] if report.best_baseline else None
        won = bool(served and baseline and served.value > baseline.value)
        (st.success if won else st.warning)(formats.plain(report.verdict))
    ranked = sorted(
        report.quality, key=lambda row: -row.metrics["hr20"].value if "hr20" in row.metrics else 0.0
    )
    for pair in (METRICS[:2], METRICS[2:]):
        for place, metric in zip(st.columns(2), pair, strict=True):
            chart = charts.quality(ranked, metric, shell.palette())
            if chart is not None:
                place.markdown(
                    f"**{formats.METRIC_LABELS[metric]}** ({formats.METRIC_MEANINGS[metric]})"
                )
                with place:
                    charts.show(chart, formats.METRIC_LABELS[metric])
    st.caption(
        "Higher is better. Dots are means over the same questions for every ranking, whiskers "
        "their 95 % bootstrap intervals; the served ranking is blue."
    )
    st.table(
        {
            "Ranking": [formats.plain(row.label) for row in ranked],
            **{
                f"{formats.METRIC_LABELS[metric]} [95 % interval]": [
                    formats.estimate(row.metrics.get(metric)) for row in ranked
                ]
                for metric in METRICS
            },
        },
        hide_index=True,
    )
    if report.protocol:
        with st.expander("How this was measured"):
            st.markdown(formats.plain(report.protocol))


def _experiment(experiment: Experiment | None) -> None:
    st.subheader("Experiment", anchor=False)
    if experiment is None or not experiment.arms:
        shell.pending("Results of the experiment")
        return
    picture, words = st.columns([3, 2])
    with picture:
        charts.show(charts.arms(experiment.arms, shell.palette()), "arms")
    with words:
        st.markdown(formats.plain(experiment.words) or formats.difference_sentence(experiment))
        sizes = "; ".join(
            f"{formats.plain(arm.name)}: {formats.count(arm.units)} users, "
            f"{formats.count(arm.questions)} questions"
            for arm in experiment.arms
        )
        st.caption(f"Experiment {formats.plain(experiment.key or 'unnamed')}. {sizes}.")
        st.caption("Exact figures of a replayed data set, without privacy noise.")
        if experiment.method:
            st.caption(f"Method: {formats.plain(experiment.method)}.")


def _intent(learned: Federated | None) -> None:
    st.subheader("Intent model, learned across households", anchor=False)
    if learned is None or not (learned.rounds or learned.skipped):
        shell.pending("Rounds of the intent model")
        return
    if learned.skipped:
        st.warning(f"Not trained in this run: {formats.plain(learned.skipped)}")
        return
    st.markdown(
        f"{formats.count(learned.households)} households train on their own history and share only "
        "model updates. The task is to predict the next item; the dashed line is a Markov chain on "
        "the same questions."
    )
    for place, top in zip(st.columns(2), (1, 5), strict=True):
        chart = charts.rounds(learned, top, shell.palette())
        if chart is not None:
            with place:
                charts.show(chart, f"top-{top} accuracy")
    if learned.verdict:
        st.markdown(formats.plain(learned.verdict))
    if learned.privacy:
        st.caption(formats.plain(learned.privacy))


def _model(model: Model | None) -> None:
    st.subheader("Ranking model", anchor=False)
    if model is None:
        shell.pending("Model card")
        return
    card, picture = st.columns([2, 3])
    with card:
        facts = {
            "Name": model.name,
            "Version": model.version,
            "Alias": model.alias,
            "MLflow run": model.run_id,
            "Training rows": formats.count(model.rows),
        }
        st.table(
            {
                "Model": list(facts),
                "Value": [formats.plain(value) or formats.MISSING for value in facts.values()],
            },
            hide_index=True,
        )
    if model.gains:
        with picture:
            chart = charts.bars(
                model.gains[:_MOST_GAINS],
                "Total gain of a feature (higher matters more)",
                shell.palette(),
            )
            charts.show(chart, "feature gains")


def _statistics(statistics: Statistics | None) -> None:
    st.subheader("Private statistics", anchor=False)
    if statistics is None:
        shell.pending("Private statistics")
        return
    name, unit = statistics.name or "the statistic", statistics.unit or "user"
    st.markdown(
        f"{formats.count(statistics.released_panes)} panes of {formats.plain(name)} have been "
        f"released, each once, with ε = {formats.decimal(statistics.epsilon, 2)} for "
        f"{formats.plain(unit)}. The page *Statistics* shows them with error bars."
    )


def _real_and_simulated(lines: tuple[str, ...]) -> None:
    st.subheader("What is real and what is simulated", anchor=False)
    if not lines:
        shell.pending("List of real and simulated parts")
        return
    st.markdown("\n".join(f"- {formats.plain(line)}" for line in lines))


def _machine(report: Report) -> None:
    """Draw the time of each stage, and the machine of the run."""
    st.subheader("Timings", anchor=False)
    if report.timings:
        chart = charts.bars(report.timings, "Time by stage (seconds)", shell.palette())
        charts.show(chart, "timings")
    else:
        shell.pending("Timings by stage")
    st.subheader("Environment", anchor=False)
    if report.environment:
        names, values = (map(formats.plain, part) for part in zip(*report.environment, strict=True))
        st.table({"Environment": list(names), "Value": list(values)}, hide_index=True)
    else:
        shell.pending("The environment of the run")
