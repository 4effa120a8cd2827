"""What the service counts is told to Prometheus under names that dashboards rely on."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from backend.metrics.service import SECONDS, Metrics

NAMES = {
    "usam_requests",
    "usam_request_seconds",
    "usam_click_seconds",
    "usam_model_seconds",
    "usam_images_encoded",
    "usam_prompts_decoded",
    "usam_engine_busy",
    "usam_engine_waiting",
    "usam_embedding_bytes",
    "usam_embedding_hits",
    "usam_embedding_misses",
    "usam_embedding_evictions",
    "usam_action_considered",
    "usam_action_taken",
    "usam_action_kept",
    "usam_action_seconds",
    "usam_action_predicted_gain",
    "usam_action_threshold",
    "usam_tasks_predicted",
    "usam_webhook_events",
    "usam_webhook_events_lost",
    "usam_model_version",
}


class Store:
    """Has no refinement of any pool, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def projects(self) -> list[int]:
        self.asked += 1
        return []

    def refinements(self, project: int) -> dict[str, object]:
        raise AssertionError("there is no project")


def families(metrics: Metrics) -> dict[str, str]:
    """Name -> help of every metric told."""
    return {family.name: family.documentation for family in text_string_to_metric_families(metrics.text().decode())}


def test_every_metric_keeps_its_name_and_explains_itself() -> None:
    told = families(Metrics())
    assert {name for name in told if not name.endswith("_created")} == NAMES
    assert all(told[name] for name in NAMES)


def test_what_is_counted_is_told_with_its_labels() -> None:
    metrics = Metrics()
    metrics.requests.labels("/predict", "200").inc()
    metrics.requests.labels("/predict", "200").inc()
    metrics.click_seconds.labels("yes").observe(0.05)
    text = metrics.text().decode()
    assert 'usam_requests_total{route="/predict",status="200"} 2.0' in text
    assert 'usam_click_seconds_bucket{le="0.04",warm="yes"} 0.0' in text
    assert 'usam_click_seconds_bucket{le="0.06",warm="yes"} 1.0' in text


def test_two_services_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.busy.inc()
    assert b"usam_engine_busy_total 1.0" in first.text()
    assert b"usam_engine_busy_total 0.0" in second.text()


def test_buckets_grow_and_tell_a_warm_click_from_label_studios_patience() -> None:
    assert list(SECONDS) == sorted(set(SECONDS))
    assert SECONDS[0] < 0.1 < SECONDS[-1]
    assert SECONDS[-1] >= 100


def test_a_pool_is_shown_once_however_often_it_is_asked_for() -> None:
    metrics, store = Metrics(), Store()
    for _ in range(2):
        metrics.show_pool(store)
    store.asked = 0
    metrics.text()
    assert store.asked == 1
