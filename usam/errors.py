"""Every error usam raises on purpose.

    UsamError
     |- ImageError            an image cannot be read or is refused
     |- PromptError           a point, box or mask prompt cannot be used
     |- MaskError             a mask, run-length code or polygon is malformed
     |- CheckpointError       a checkpoint is unknown, missing, wrong or does not fit
     |   `- DownloadError     a file could not be fetched, verified or stored
     |- HeadsError            a head set is malformed, unsafe or of another checkpoint
     |- DatasetError          a data set's folder or annotation is not as its owner publishes it
     |- TokensError           a token table is missing, half-written or of another make
     |- TrainingError         heads cannot be trained on what was given
     |- PseudoLabelError      a risk cannot be controlled with the labels at hand
     `- SimulationError       a campaign cannot be replayed or planned with what was given

A message has three parts: what was expected, what came, what to do.
"""


class UsamError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    expected, got, remedy
        The three parts of the message, kept as attributes for programs that want them apart.

    Examples
    --------
    >>> try:
    ...     usam.load("nano-x")
    ... except usam.UsamError as error:
    ...     print(error.got, "-", error.remedy)
    'nano-x' - did you mean 'nano-s'?
    """

    def __init__(self, expected: str, got: str = "", remedy: str = "") -> None:
        self.expected, self.got, self.remedy = expected, got, remedy
        message = f"expected {expected}" + (f", got {got}" if got else "")
        super().__init__(message + (f"; {remedy}" if remedy else ""))


class ImageError(UsamError):
    """An image cannot be read, or is refused before it is decoded."""


class PromptError(UsamError):
    """A point, box or mask prompt cannot be used on this image."""


class MaskError(UsamError):
    """A mask, run-length code or polygon is malformed or of another size."""


class CheckpointError(UsamError):
    """A checkpoint is unknown, missing, altered, or does not fit the model."""


class DownloadError(CheckpointError):
    """A file could not be fetched, verified or stored; nothing half-written stays."""


class HeadsError(UsamError):
    """A head set is malformed, unsafe to load, or was trained for another checkpoint."""


class DatasetError(UsamError):
    """A data set's folder or annotation is not laid out as its owner publishes it."""


class TokensError(UsamError):
    """A token table is missing, half-written or of another make."""


class TrainingError(UsamError):
    """Heads cannot be trained on what was given."""


class PseudoLabelError(UsamError):
    """A risk cannot be controlled with the labels at hand.

    `needed` is how many audited images more would do, at the failures seen so far; 0 where their number is not what is
    missing.
    """

    def __init__(self, expected: str, got: str = "", remedy: str = "", *, needed: int = 0) -> None:
        super().__init__(expected, got, remedy)
        self.needed = needed


class SimulationError(UsamError):
    """A campaign cannot be replayed, or not be planned, with what was given."""
