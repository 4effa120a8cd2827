"""The service with all its parts opened, as the settings say: what `usam-backend serve` runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI


def service_app(settings: Settings) -> FastAPI:
    """The ASGI application on the settings' store, queue and registry. The model loads behind it, in its own thread.

    Raises `StoreError` where the store cannot be opened, `QueueError` where REDIS_URL is malformed.
    """
    from backend.queue import open_queue
    from backend.store import Store
    from backend.store.head_registry import Registry
    from backend.web.app import create_app

    queue = open_queue(settings)
    queue.connection()  # connects to nobody; refuses a malformed address, which each webhook would only log
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    store, registry = Store(settings.store_url), Registry(settings.registry_dir)
    return create_app(settings, store=store, queue=queue, registry=registry, alone=True)
