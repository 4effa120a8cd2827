"""Every error the service raises on purpose, over the library's base.

    usam.errors.UsamError
     `- BackendError
         |- SettingsError            a setting is missing, malformed or contradicts another
         |- FetchError               an image may not be fetched, or could not be
         |- RegionError              a Label Studio region or context cannot be used
         |   `- LabelConfigError     a labelling config is malformed or has no place for a mask
         |- EngineError              the engine cannot do what was asked
         |   |- EngineBusy           it is full: come back after `retry_after` seconds
         |   `- EngineStopped        it was closed
         |- LabelStudioError         Label Studio refused, or said something unexpected
         |   |- TokenError           the token is missing, refused or expired
         |   `- LabelStudioUnreachable   it did not answer at all (worth another try later)
         |- StoreError               the store on disk cannot be opened or is of another make
         |- RegistryError            a head-set version is missing, half-written or altered
         |- QueueError               Redis or RQ is not usable
         |- PluginUnavailable        the label-studio-ml package is not installed (also an ImportError)
         |- ServerError              a server that we start (Redis, Label Studio) did not come up
         `- JobError                 a background job cannot finish; its reason is kept in the store
             `- JobBusy              another worker is at the same job; it is tried again

A message has three parts: what was expected, what came, what to do. None ever carries a token or password.
"""

from __future__ import annotations

from pydantic_core import ValidationError

from usam.errors import UsamError


class BackendError(UsamError):
    """Base of all errors of the service."""


ITEM_ERRORS = (UsamError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError)
"""What work on one item (a task, a region, an annotation) may raise because of that item: it is set aside by name with
the reason, and the others go on. (Torch says by a `RuntimeError` that an image fills the memory.) What a full disk or a
lost connection raises is none of these."""


def reason_of(error: BaseException) -> str:
    """What an error says, in one line; with its kind where it is none of ours, and with the field that is wrong."""
    if isinstance(error, UsamError):
        return str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))[:100] or 'all of it'}: {first['msg']}"[:300]
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}"


class SettingsError(BackendError):
    """A setting is missing, malformed or contradicts another."""


class FetchError(BackendError):
    """An image may not be fetched (host, scheme, size), or could not be."""


class RegionError(BackendError):
    """A Label Studio region or interactive context cannot be used, or one of ours would not be valid."""


class LabelConfigError(RegionError):
    """A labelling configuration is malformed or has no place for a mask."""


class EngineError(BackendError):
    """The engine cannot do what was asked."""


class EngineBusy(EngineError):
    """The engine is full. `retry_after` is in seconds."""

    def __init__(self, expected: str, got: str = "", remedy: str = "", *, retry_after: float = 1.0) -> None:
        super().__init__(expected, got, remedy)
        self.retry_after = retry_after


class EngineStopped(EngineError):
    """The engine was asked for work after it was closed."""


class LabelStudioError(BackendError):
    """Label Studio refused a request or answered with something unexpected. `status` is its HTTP status;
    `is_from_label_studio` tells an answer of its own, a JSON object, from a page of a proxy before it."""

    def __init__(
        self, expected: str, got: str = "", remedy: str = "", *, status: int = 0, is_from_label_studio: bool = False
    ) -> None:
        super().__init__(expected, got, remedy)
        self.status = status
        self.is_from_label_studio = is_from_label_studio


class TokenError(LabelStudioError):
    """The Label Studio token is missing, refused, or could not be exchanged for an access token."""


class LabelStudioUnreachable(LabelStudioError):
    """Label Studio did not answer: refused, dropped or timed out. Worth another try later."""


class StoreError(BackendError):
    """The store on disk cannot be opened, or was made by another version."""


class RegistryError(BackendError):
    """A head-set version is missing, half-written or altered."""


class QueueError(BackendError):
    """Redis or RQ is not usable."""


class PluginUnavailable(BackendError, ImportError):
    """The model class for label-studio-ml was asked for where that package is not installed."""


class ServerError(BackendError):
    """A server that we start ourselves (Redis, Label Studio) did not come up."""


class JobError(BackendError):
    """A background job cannot finish. Its reason is kept in the store's run record."""


class JobBusy(JobError):
    """Another worker is at the same job of the same project. It is tried again by itself."""
