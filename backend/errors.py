"""Every error the service raises on purpose, over the library's base.

    UsamError
     `- BackendError
         |- SettingsError        a setting from the environment cannot be used
         |- LabelConfigError     a labelling configuration has no place for what we would answer
         |- RegionError          a region or context cannot be read, or ours would not be valid
         |- FetchError           an image may not be, or could not be, fetched
         |- EngineBusy           the engine's queue or memory bound is reached; try again later
         |- EngineStopped        the engine was asked for work after it was closed
         |- LabelStudioError     Label Studio refused, failed or answered something else
         |   `- TokenError       the token is missing, refused or expired
         |- StoreError           the durable store cannot be read or written
         |- RegistryError        a head-set version is missing, altered or half-written
         `- QueueError           the job queue cannot be reached

As in the library, a message has three parts: what was expected, what came, what to do. None carries a secret.
"""

from __future__ import annotations

from usam.errors import UsamError


class BackendError(UsamError):
    """Base of all errors of the service."""


class SettingsError(BackendError):
    """A setting from the environment cannot be used."""


class LabelConfigError(BackendError):
    """A labelling configuration is malformed or has no place for a mask."""


class RegionError(BackendError):
    """A region or an interactive context cannot be read, or a region of ours would not be valid."""


class FetchError(BackendError):
    """An image may not be fetched from there, or could not be within the caps on time, bytes and pixels."""


class EngineBusy(BackendError):
    """The engine's queue or memory bound is reached. `retry_after` is in seconds."""

    def __init__(self, expected: str, got: str = "", remedy: str = "", *, retry_after: float = 2.0) -> None:
        super().__init__(expected, got, remedy)
        self.retry_after = retry_after


class EngineStopped(BackendError):
    """The engine was asked for work after it was closed."""


class LabelStudioError(BackendError):
    """Label Studio refused, failed, or answered something else than its API says. `status` is the HTTP
    status, 0 where there was no answer."""

    def __init__(self, expected: str, got: str = "", remedy: str = "", *, status: int = 0) -> None:
        super().__init__(expected, got, remedy)
        self.status = status


class TokenError(LabelStudioError):
    """The Label Studio token is missing, refused, or could not be exchanged for an access token."""


class StoreError(BackendError):
    """The durable store cannot be read or written."""


class RegistryError(BackendError):
    """A head-set version is missing, altered or half-written."""


class QueueError(BackendError):
    """The job queue cannot be reached or refuses a job."""
