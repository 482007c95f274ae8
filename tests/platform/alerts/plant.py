"""A server in numbers: counters that grow and gauges, as its registry would show them."""

from __future__ import annotations

from collections.abc import Mapping

from tactful.alerts.samples import Labels, Reading, Scrape, make_scrape, signal_key
from tactful.schemas.alerts import AlertRule

Series = tuple[str, Labels]


def series(name: str, **labels: str) -> Series:
    return name, tuple(sorted(labels.items()))


INGESTED = "tactful_ingested_total"
RATES: Mapping[Series, float] = {
    series(INGESTED, kind="event", result="accepted"): 10.0,
    series(INGESTED, kind="event", result="rejected"): 0.05,
    series("tactful_answers_total", route="/v1/events", status="202"): 10.0,
    series("tactful_answers_total", route="/v1/events", status="500"): 0.0,
    series("tactful_engine_records_total", result="applied"): 10.0,
    series("tactful_dead_letters_total"): 0.1,
    series("tactful_freshness_seconds_bucket", le="1.0"): 9.95,
    series("tactful_freshness_seconds_bucket", le="+Inf"): 10.0,
    series("tactful_commits_refused_total"): 0.0,
    series("tactful_recommended_lists_total", result="whole"): 5.0,
    series("tactful_recommended_lists_total", result="short"): 0.1,
    series("tactful_recommended_lists_total", result="empty"): 0.01,
    series("tactful_impressions_lost_total"): 0.0,
    series("tactful_steps_total", step="recommendation"): 5.0,
    series("tactful_steps_total", step="click"): 0.5,
    series("tactful_steps_total", step="add_to_cart"): 0.5,
    series("tactful_steps_total", step="purchase"): 0.25,
    series("tactful_federated_rounds_total", result="done"): 0.01,
    series("tactful_federated_rounds_total", result="failed"): 0.0,
    series("tactful_recommendation_score_bucket", le="0.1"): 1.0,
    series("tactful_recommendation_score_bucket", le="0.5"): 4.0,
    series("tactful_recommendation_score_bucket", le="+Inf"): 5.0,
}
GAUGES: Mapping[str, float] = {
    "tactful_log_unreachable": 0,
    "tactful_engine_lag": 5,
    "tactful_flink_job_failing": 0,
    "tactful_watermark_stalled_seconds": 0,
    "tactful_model_age_days": 3,
    "tactful_rollouts_rolled_back": 0,
    "tactful_budget_reserved_share": 0.3,
    "tactful_disk_free_share": 0.5,
    "tactful_certificate_days": 80,
    "tactful_webhooks_buried": 0,
    "tactful_alert_sinks_failing": 0,
}
RELEASED = Reading(0.05, 0.045, 0.055, "0.05 released")


class Plant:
    """One server; faults change its rates and gauges."""

    def __init__(self) -> None:
        self.rates = dict(RATES)
        self.gauges = dict(GAUGES)
        self.released = RELEASED
        self._totals = dict.fromkeys(RATES, 0.0)

    def pass_time(self, seconds: float) -> None:
        for key, rate in self.rates.items():
            self._totals[key] += rate * seconds

    def repair(self) -> None:
        self.rates, self.gauges, self.released = dict(RATES), dict(GAUGES), RELEASED

    def scrape(self, rule: AlertRule) -> Scrape:
        rows = [(name, dict(labels), total) for (name, labels), total in self._totals.items()]
        rows += [(name, {}, value) for name, value in self.gauges.items()]
        return make_scrape(rows, {signal_key(rule.value): self.released})


FAULTS: Mapping[str, Mapping[Series | str, float]] = {
    "ingest_errors": {series(INGESTED, kind="event", result="rejected"): 5.0},
    "server_errors": {series("tactful_answers_total", route="/v1/events", status="500"): 0.5},
    "dead_letters": {series("tactful_dead_letters_total"): 8.0},
    "log_unreachable": {"tactful_log_unreachable": 1},
    "traffic": {series(INGESTED, kind="event", result="accepted"): 0.1},
    "engine_lag": {"tactful_engine_lag": 90_000},
    "watermark_stalled": {"tactful_watermark_stalled_seconds": 700},
    "flink_job": {"tactful_flink_job_failing": 1},
    "stale_features": {series("tactful_freshness_seconds_bucket", le="1.0"): 5.0},
    "commits_refused": {series("tactful_commits_refused_total"): 0.2},
    "recall": {series("tactful_recommended_lists_total", result="short"): 9.0},
    "recommendation_scores": {series("tactful_recommendation_score_bucket", le="0.1"): 3.9},
    "ctr": {series("tactful_steps_total", step="click"): 0.05},
    "conversion": {series("tactful_steps_total", step="purchase"): 0.01},
    "released_ctr": {},
    "impressions_lost": {series("tactful_impressions_lost_total"): 1.0},
    "model_age": {"tactful_model_age_days": 40},
    "rollout_rolled_back": {"tactful_rollouts_rolled_back": 1},
    "budget": {"tactful_budget_reserved_share": 0.95},
    "federated_rounds": {series("tactful_federated_rounds_total", result="failed"): 0.05},
    "disk": {"tactful_disk_free_share": 0.05},
    "certificates": {"tactful_certificate_days": 5},
    "webhooks": {"tactful_webhooks_buried": 3},
    "alert_messages": {"tactful_alert_sinks_failing": 1},
}
"""What each packaged rule is there to find."""
