"""usam: a SAM 2 that says why it is unsure. The library; it knows nothing of Label Studio, Redis or HTTP.

The names below are the front door. Each is loaded when it is first asked for, so that `import usam` costs nothing:

    load           a checkpoint by name, patched and ready for an image
    patch          a SAM 2 predictor of your own -> the same with scores
    HeadSet        the small networks that score masks
    Prompt         points and a box for one object
    propose_masks  the masks of an image, best first, near-copies dropped
    read_image     an image file -> (H, W, 3) RGB uint8, upright
    rank_pool      how much each image's answer is worth -> the order to ask in
    fit_heads      tokens and IoUs -> a head set
    calibrate      audit labels -> the quality from which masks may be accepted unseen
    UsamError      base of every error raised on purpose
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usam.active.ordering import rank_pool
    from usam.errors import UsamError
    from usam.heads.head_set import HeadSet
    from usam.images import read_image
    from usam.predictor.load import load
    from usam.predictor.patch import patch
    from usam.predictor.proposals import propose_masks
    from usam.prompts import Prompt
    from usam.pseudo_labels.calibration import calibrate
    from usam.training.fitting import fit_heads

__version__ = "0.1.0"

__all__ = [
    "HeadSet",
    "Prompt",
    "UsamError",
    "calibrate",
    "fit_heads",
    "load",
    "patch",
    "propose_masks",
    "rank_pool",
    "read_image",
]

_MODULES = {
    "HeadSet": "usam.heads.head_set",
    "Prompt": "usam.prompts",
    "UsamError": "usam.errors",
    "calibrate": "usam.pseudo_labels.calibration",
    "fit_heads": "usam.training.fitting",
    "load": "usam.predictor.load",
    "patch": "usam.predictor.patch",
    "propose_masks": "usam.predictor.proposals",
    "rank_pool": "usam.active.ordering",
    "read_image": "usam.images",
}


if not TYPE_CHECKING:  # a type checker is to see the imports above, and that there is nothing else

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'usam' has no attribute {name!r}; it offers {', '.join(__all__)}")
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
