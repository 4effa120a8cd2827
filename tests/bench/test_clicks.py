"""What the service says that its model decoded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from backend.metrics.service import Metrics
from bench.clicks import _decoded_s
from bench.rows import median_interval


def test_the_seconds_of_decoding_are_read_from_the_metrics() -> None:
    from prometheus_client import generate_latest

    metrics = Metrics()
    metrics.model_seconds.labels("encode", "nano-m").inc(7)
    metrics.model_seconds.labels("decode", "nano-m").inc(0.25)
    metrics.model_seconds.labels("decode", "sam2.1_hiera_tiny").inc(0.5)
    text = generate_latest(metrics.registry).decode()
    client: Any = SimpleNamespace(get=lambda url: SimpleNamespace(text=text))
    assert _decoded_s(client, "http://service") == 0.75


def test_the_interval_holds_the_median() -> None:
    low, high = median_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert 1 <= low <= 3 <= high <= 5
