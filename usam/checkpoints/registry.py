"""Names -> verified files -> built models: SAM 2.0, SAM 2.1, EdgeTAM, EfficientTAM and the bundled nano family.

`registry.toml` says what there is. Downloads lie in the folder `$USAM_HOME`, by default `~/.cache/usam`;
bundled files lie beside the registry, in the folder `$USAM_MODELS` where that is set. `$USAM_MIRROR` names another
address from which files are fetched by their names; what comes is checked against the same SHA-256.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usam.checkpoints.downloads import Progress, check_file, download, mirrored
from usam.errors import CheckpointError, DownloadError

if TYPE_CHECKING:
    import torch
    from sam2.modeling.sam2_base import SAM2Base


DEFAULT_MODEL = "nano-m"
LIGHT_FAMILIES = ("edgetam", "efficienttam")

# What sam2's own builder adds for images: the best of three masks replaces an unstable single one.
_DECODER_ARGUMENTS = {
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}


@dataclass(frozen=True)
class Checkpoint:
    """SAM 2 weights in one file.

    `family` is 'sam2', 'sam2.1', 'edgetam', 'efficienttam' or 'nano'; `bytes` is None and `sha256` empty where the
    registry does not say; `width` is the channels of a decoder token (D); `image_size` the side of the model's square
    input in pixels. `release` counts the weights that a name of ours has stood for, from 1; 0 for others' files.
    `weights` names the very weights, which a name of ours changes with a release: what is learnt from their tokens goes
    by it.
    """

    name: str
    family: str
    file: str
    url: str
    sha256: str
    bytes: int | None
    licence: str
    config: str
    image_size: int
    width: int
    bundled: bool
    release: int = 0
    weights: str = ""

    @property
    def path(self) -> Path:
        """Where the file is, or belongs."""
        return models_dir() / self.file if self.bundled else cache_dir() / "checkpoints" / self.file


@dataclass(frozen=True)
class PublishedHeads:
    """Heads that others have published for one family, a file each; `sha256` and `url` by head."""

    name: str
    family: str
    url: dict[str, str]
    sha256: dict[str, str]
    bytes: int | None
    licence: str

    @property
    def path(self) -> Path:
        """The folder they are, or belong, in."""
        return cache_dir() / "heads" / self.name

    def files(self) -> dict[str, Path]:
        """The path of each head's file."""
        return {head: self.path / head / "model.pth" for head in self.sha256}

    def missing(self) -> list[str]:
        """The heads whose file is not there."""
        return [head for head, path in self.files().items() if not path.is_file()]


def models_dir() -> Path:
    """The folder of the registry and the bundled weights: `$USAM_MODELS`, else the one in this package."""
    if configured := os.environ.get("USAM_MODELS"):
        return Path(os.path.expanduser(configured))
    package = Path(__file__).resolve().parents[1]
    installed = package / "_models"
    return installed if installed.is_dir() else package.parent / "models"


def cache_dir() -> Path:
    """The folder of downloads: `$USAM_HOME`, else `~/.cache/usam`. CheckpointError for a user without a home folder."""
    try:
        return Path(os.environ.get("USAM_HOME") or "~/.cache/usam").expanduser()
    except RuntimeError as error:
        raise CheckpointError("a home folder, for downloads", str(error), "set USAM_HOME to a folder") from None


_parsed: dict[Path, tuple[int, dict[str, Any]]] = {}
_built: dict[tuple[Path, str], str] = {}
"""Weights of the checkpoints that this process has built, by the registry's folder and their name."""
_made: dict[str, tuple[dict[str, Any], dict[str, Checkpoint]]] = {}
"""Registries as they were read last, and the checkpoints of one: a pool asks for the same one with every task."""


def _read_registry() -> dict[str, Any]:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    path = models_dir() / "registry.toml"
    try:
        changed_at = path.stat().st_mtime_ns
        known = _parsed.get(path)
        if known is None or known[0] != changed_at:
            known = _parsed[path] = changed_at, tomllib.loads(path.read_text(encoding="utf-8"))
        return known[1]
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"a registry of models at {path}",
            str(error),
            "install usam again, or set USAM_MODELS to its folder",
        ) from error


def registry() -> dict[str, Checkpoint]:
    """All checkpoints by name, in the order of the registry.

    Raises CheckpointError when the registry is missing or malformed.
    """
    parsed, made = _read_registry(), _made.get("checkpoints")
    if made is not None and made[0] is parsed:
        return dict(made[1])
    checkpoints = {}
    for entry in parsed.get("checkpoint", []):
        try:
            checkpoints[entry["name"]] = Checkpoint(
                name=entry["name"],
                family=entry["family"],
                file=entry["file"],
                url=entry.get("address", ""),
                sha256=entry.get("sha256", ""),
                bytes=entry.get("bytes"),
                licence=entry["licence"],
                config=entry["config"],
                image_size=entry["image_size"],
                width=entry["width"],
                bundled=entry.get("bundled", False),
                release=entry.get("release", 0),
                weights=entry.get("weights", entry["name"]),
            )
        except KeyError as error:
            raise CheckpointError(f"{error} in each checkpoint of the registry", f"{entry}") from error
    _made["checkpoints"] = parsed, checkpoints
    return dict(checkpoints)


def published_heads() -> dict[str, PublishedHeads]:
    """All published head sets by name.

    Raises CheckpointError when the registry is missing or malformed.
    """
    sets = {}
    for entry in _read_registry().get("heads", []):
        try:
            sets[entry["name"]] = PublishedHeads(
                name=entry["name"],
                family=entry["family"],
                url={head: entry["address"].replace("{head}", head) for head in entry["sha256"]},
                sha256=dict(entry["sha256"]),
                bytes=entry.get("bytes"),
                licence=entry["licence"],
            )
        except KeyError as error:
            raise CheckpointError(f"{error} in each head set of the registry", f"{entry}") from error
    return sets


def find(name: str) -> Checkpoint:
    """The checkpoint of that name; CheckpointError when there is none."""
    known = registry()
    if not isinstance(name, str) or name not in known:
        raise _unknown(str(name), list(known))
    return known[name]


def weights_of(name: str) -> str:
    """The very weights that a name stands for in this process: those it has built, else those of this release. A name
    that is not in the registry stands for itself.

    A release that is installed under a process that runs changes nothing for it: its model keeps the old weights.
    Raises CheckpointError when the registry is missing or malformed.
    """
    if built := _built.get((models_dir(), name)):
        return built
    known = registry().get(name)
    return known.weights if known is not None else name


def _unknown(name: str, known: list[str]) -> CheckpointError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "see `usam models`"
    return CheckpointError(f"one of {', '.join(known)}", repr(name), hint)


def checkpoint_path(name: str) -> Path:
    """Where the file of a checkpoint is, or belongs. CheckpointError for an unknown name."""
    return find(name).path


def fetch(name: str, progress: Progress | None = None, *, accept_no_licence: bool = False) -> Path:
    """Make sure that a checkpoint or published head set is there and right; download what is missing.

    Returns the file of a checkpoint, the folder of a head set. `progress` gets the bytes so far and in all.
    Published heads come without a licence: `accept_no_licence` says that the user was told so.

    Raises CheckpointError for an unknown name or a wrong file on disk, DownloadError when the download fails.
    """
    checkpoints, heads = registry(), published_heads()
    if name in heads:
        return _fetch_heads(heads[name], progress, accept_no_licence)
    if name not in checkpoints:
        raise _unknown(name, [*checkpoints, *heads])
    checkpoint = checkpoints[name]
    if checkpoint.bundled:
        return verify(name)
    address = mirrored(checkpoint.url, checkpoint.file)
    return download(address, checkpoint.path, sha256=checkpoint.sha256, size=checkpoint.bytes, progress=progress)


def _fetch_heads(heads: PublishedHeads, progress: Progress | None, accept_no_licence: bool) -> Path:
    if not accept_no_licence:
        raise DownloadError(
            "your consent to files without a licence",
            f"none for {heads.name}: its publisher states no licence, so all rights are reserved",
            f"once you have judged that you may use them: usam fetch {heads.name} --accept-no-licence",
        )
    whole = None if heads.bytes is None else heads.bytes * len(heads.sha256)
    for done, (head, path) in enumerate(heads.files().items()):

        def report(received: int, _total: int | None, before: int = done * (heads.bytes or 0)) -> None:
            if progress is not None:
                progress(before + received, whole)

        name = path.relative_to(heads.path.parent).as_posix()
        download(mirrored(heads.url[head], name), path, sha256=heads.sha256[head], size=heads.bytes, progress=report)
    return heads.path


def verify(name: str) -> Path:
    """Compare a checkpoint's file, or every file of a published head set, with the registry; return its path.

    Raises CheckpointError that says where the file belongs when it is missing, or how it differs.
    """
    checkpoints, heads = registry(), published_heads()
    if name in heads:
        for path, sha256 in zip(heads[name].files().values(), heads[name].sha256.values(), strict=True):
            _verify_file(path, sha256, f"fetch it with: usam fetch {name} --accept-no-licence", remember=True)
        return heads[name].path
    if name not in checkpoints:
        raise _unknown(name, [*checkpoints, *heads])
    checkpoint = checkpoints[name]
    remedy = "install usam again" if checkpoint.bundled else f"fetch it with: usam fetch {name}"
    _verify_file(checkpoint.path, checkpoint.sha256, remedy, remember=not checkpoint.bundled)
    return checkpoint.path


def _verify_file(path: Path, sha256: str, remedy: str, *, remember: bool) -> None:
    if not path.is_file():
        raise CheckpointError(f"a file at {path}", "none", remedy)
    if sha256:
        check_file(path, sha256, remember=remember)


def build_model(name: str, weights: bool = True, *, image_size: int | None = None) -> SAM2Base:
    """The model of a checkpoint, in eval mode on the CPU.

    `weights=False` gives random weights, for tests and for measuring speed. `image_size` (pixels, a multiple
    of 32) builds a SAM 2 for another input size than the registry's; its weights fit all sizes.

    Raises CheckpointError when the file is missing, altered, unsafe or of another model.
    """
    checkpoint = find(name)
    if weights:
        _built[models_dir(), name] = checkpoint.weights
    if checkpoint.family == "nano":
        from usam.checkpoints.nano import build_nano, load_nano

        size = checkpoint.config
        return (load_nano(size, verify(name)) if weights else build_nano(size)).eval()
    path = verify(name) if weights else None
    if checkpoint.family in LIGHT_FAMILIES:
        from usam.checkpoints.light import build_light

        return build_light(checkpoint.config, image_size or checkpoint.image_size, _DECODER_ARGUMENTS, path)
    model = _build_sam2(checkpoint.config, image_size or checkpoint.image_size)
    if path is not None:
        load_state(model, read_weights(path), path)
    return model.eval()


def _build_sam2(config: str, image_size: int) -> SAM2Base:
    """Build from a configuration file of the sam2 package.

    The file is read and instantiated directly: hydra's `compose` searches a process-wide path, which the
    calling program may have set for itself, and is not safe to use from several threads.
    """
    import sam2
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    if image_size % 32:
        raise CheckpointError("an image size that is a multiple of 32", str(image_size))
    settings = OmegaConf.load(Path(sam2.__path__[0]) / config).model
    settings.image_size = image_size
    settings.sam_mask_decoder_extra_args = _DECODER_ARGUMENTS
    OmegaConf.resolve(settings)
    return instantiate(settings, _recursive_=True)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a published file by name; CheckpointError where it is none, or unsafe."""
    import torch

    try:
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)["model"]
    except Exception as error:  # the unpickler raises many kinds for broken and hostile files
        raise CheckpointError(
            f"SAM 2 weights in {path}", str(error).partition("\n")[0], "remove the file and fetch it again"
        ) from error
    return state


def load_state(model: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Put weights into a model; CheckpointError with the first difference when they are of another one."""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(getattr(value, "shape", ())) for key, value in state.items()}
    remedy = "this file is for a model of another size; give the name it belongs to"
    for key, shape in wanted.items():
        if key not in found:
            raise CheckpointError(f"{key} {shape} in {path}", "nothing of that name", remedy)
        if found[key] != shape:
            raise CheckpointError(f"{key} of shape {shape} in {path}", f"{found[key]}", remedy)
    if surplus := sorted(found.keys() - wanted.keys()):
        raise CheckpointError(f"{len(wanted)} tensors in {path}", f"{surplus[0]} besides", remedy)
    model.load_state_dict(state)


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device of that name, or the best one there is for 'auto'. CheckpointError when it is not there."""
    import torch

    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(kind for kind, there in has.items() if there))
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise CheckpointError("a device such as cpu, cuda or mps", repr(device)) from error
    count = torch.cuda.device_count() if chosen.type == "cuda" else 1
    if not has.get(chosen.type) or (chosen.index or 0) >= count:
        there = ", ".join(kind for kind, is_there in has.items() if is_there)
        raise CheckpointError(f"one of the devices here ({there})", repr(str(device)))
    return chosen


def heads_for(name: str) -> Path | None:
    """The folder of the heads that `load` takes by itself: bundled, else fetched, else None."""
    checkpoint = find(name)
    bundled = models_dir() / "heads" / name
    if bundled.is_dir():
        return bundled
    for heads in published_heads().values():
        if heads.family == checkpoint.family and not heads.missing():
            return heads.path
    return None
