"""`usam tokens`: the share of its time outside SAM's forward passes, and whether its memory grows with the set.

One process, as a worker runs. Pictures and objects come from COCO where USAM_SHARED names the folder that holds
`data`, else they are drawn. SAM 2.1 Tiny runs with random weights: the time of its passes does not depend on them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from bench.rows import Row

TARGET = 0.10
SETS: dict[str, tuple[list[str], int]] = {
    "nano-s and nano-m": (["--models", "nano-s,nano-m"], 24),
    "nano-s and nano-m, with entropies": (["--models", "nano-s,nano-m", "--entropies"], 6),
    "SAM 2.1 Tiny": (["--models", "sam2.1_hiera_tiny", "--untrained", "--max-objects", "8"], 3),
}
MEMORY_IMAGES = (16, 96)

_CHILD = """
import json, resource, sys
from pathlib import Path
from usam.research.datasets import open_dataset
from usam.research.tokens import TokenSettings, extract_tokens
from usam.research.tokens.models import load_predictor, untrained_predictor
a = json.loads(sys.argv[1])
load = untrained_predictor if a["untrained"] else load_predictor
settings = TokenSettings(limit=a["images"], max_objects=a["most"], entropies=a["entropies"], shard_size=8)
report = extract_tokens(open_dataset("coco", a["root"]), Path(a["out"]), a["models"], settings, load_model=load)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([report.share_outside, report.seconds, report.objects, peak]))
"""


def run() -> list[Row]:
    """Share of time outside the passes for each set of models; growth of peak memory with six times the images."""
    with tempfile.TemporaryDirectory() as folder:
        root = _coco(Path(folder))
        rows = [_share(what, options, images, root) for what, (options, images) in SETS.items()]
        return [*rows, _memory(root)]


def _share(what: str, options: list[str], images: int, root: Path) -> Row:
    share, seconds, objects, _ = _extract(root, images, options)
    return Row(
        figure=f"tokens: share of time outside forward passes, {what}",
        value=share,
        unit="share of seconds",
        against="the same run's forward passes",
        target=f"<= {TARGET}",
        note=f"{images} COCO images, {objects:.0f} objects, {seconds:.1f} s, one process, one thread a pass",
    )


def _memory(root: Path) -> Row:
    few, many = (_extract(root, images, ["--models", "nano-s", "--max-objects", "1"])[3] for images in MEMORY_IMAGES)
    return Row(
        figure=f"tokens: peak memory, {MEMORY_IMAGES[1]} images against {MEMORY_IMAGES[0]}",
        value=many / few,
        unit="ratio of bytes",
        against="the shorter run",
        target="<= 1.1",
        note=f"{many / 2**20:.0f} MiB against {few / 2**20:.0f} MiB, nano-s, one object an image",
    )


def _extract(root: Path, images: int, options: list[str]) -> tuple[float, float, float, float]:
    """(share outside, seconds, objects, peak bytes) of a run in a process of its own."""
    most = options[options.index("--max-objects") + 1] if "--max-objects" in options else "0"
    with tempfile.TemporaryDirectory() as out:
        asked = {
            "root": str(root),
            "out": out,
            "models": options[options.index("--models") + 1].split(","),
            "untrained": "--untrained" in options,
            "entropies": "--entropies" in options,
            "most": int(most),
            "images": images,
        }
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _CHILD, json.dumps(asked)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            text=True,
        )
    share, seconds, objects, peak = json.loads(done.stdout.splitlines()[-1])
    return share, seconds, objects, peak


def _coco(folder: Path) -> Path:
    shared = os.environ.get("USAM_SHARED", "")
    return Path(shared) / "data" / "coco_subset" if shared else _drawn(folder / "drawn")


def _drawn(root: Path, images: int = 96, height: int = 480, width: int = 640) -> Path:
    """Smooth pictures of COCO's size with eight boxes each, in COCO's layout."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    listed, annotations = [], []
    for number in range(1, images + 1):
        rough = rng.integers(0, 255, (12, 16, 3), np.uint8)
        picture = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / "val2017" / f"{number}.jpg"), picture)
        listed.append({"id": number, "file_name": f"{number}.jpg", "height": height, "width": width})
        for _ in range(8):
            x, y, w, h = (rng.uniform(0, 0.6, 2) * (width, height)).tolist() + rng.uniform(20, 180, 2).tolist()
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append({"id": len(annotations), "image_id": number, "segmentation": [outline]})
    document = {"images": listed, "annotations": annotations}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return root
