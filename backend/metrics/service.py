"""What the service counts, for Prometheus. One object per service, with a registry of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from backend.store import Store

SECONDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.09, 0.12, 0.25, 0.5, 1, 2, 5, 10, 30, 100)


class Metrics:
    """All counters of the service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._shows_pool = False
        reg = self.registry
        self.requests = Counter(
            "usam_requests", "Requests answered, by route and status.", ["route", "status"], registry=reg
        )
        self.request_seconds = Histogram(
            "usam_request_seconds", "Seconds to answer a request.", ["route"], buckets=SECONDS, registry=reg
        )
        self.click_seconds = Histogram(
            "usam_click_seconds",
            "Seconds from a click to its masks; warm where the embedding was at hand.",
            ["warm"],
            buckets=SECONDS,
            registry=reg,
        )
        self.model_seconds = Counter(
            "usam_model_seconds", "Seconds spent in the model.", ["part", "checkpoint"], registry=reg
        )
        self.encoded = Counter("usam_images_encoded", "Images encoded.", ["checkpoint"], registry=reg)
        self.decoded = Counter("usam_prompts_decoded", "Prompts decoded.", ["checkpoint"], registry=reg)
        self.busy = Counter("usam_engine_busy", "Requests refused because the engine was full.", registry=reg)
        self.waiting = Gauge("usam_engine_waiting", "Jobs that wait.", ["priority"], registry=reg)
        self.cache_bytes = Gauge("usam_embedding_bytes", "Bytes of embeddings kept.", registry=reg)
        self.cache_hits = Gauge("usam_embedding_hits", "Embeddings found.", registry=reg)
        self.cache_misses = Gauge("usam_embedding_misses", "Embeddings not found.", registry=reg)
        self.cache_evictions = Gauge("usam_embedding_evictions", "Embeddings dropped for room.", registry=reg)
        self.action_seen = Counter(
            "usam_action_considered",
            "Objects whose gap was looked at, by the action it asks for.",
            ["action"],
            registry=reg,
        )
        self.action_taken = Counter("usam_action_taken", "Objects acted on.", ["action"], registry=reg)
        self.action_kept = Counter("usam_action_kept", "Objects whose new mask was kept.", ["action"], registry=reg)
        self.action_seconds = Counter("usam_action_seconds", "Seconds that acting took.", ["action"], registry=reg)
        self.action_gain = Gauge(
            "usam_action_predicted_gain", "Predicted IoU gained by the masks kept, summed.", ["action"], registry=reg
        )
        self.action_threshold = Gauge(
            "usam_action_threshold", "The gap from which the budget allows to act now.", ["action"], registry=reg
        )
        self.tasks = Counter("usam_tasks_predicted", "Tasks answered.", ["outcome"], registry=reg)
        self.events = Counter("usam_webhook_events", "Webhook events taken.", ["action"], registry=reg)
        self.events_lost = Counter(
            "usam_webhook_events_lost", "Events not stored; the timer's sync finds them.", registry=reg
        )
        self.version = Gauge("usam_model_version", "1 for the version in use.", ["version"], registry=reg)

    def show_pool(self, store: Store) -> None:
        """Show what the pool's actions did as well, from the store's records."""
        from backend.metrics.workers import PoolActions

        if not self._shows_pool:
            self.registry.register(PoolActions(store))
            self._shows_pool = True

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
