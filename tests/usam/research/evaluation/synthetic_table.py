"""A token table on disk whose tokens tell, with some noise, how good, ambiguous and improvable a mask is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from usam.research.tokens.manifest import Manifest, TokenSettings
from usam.research.tokens.shards import TEXT_COLUMNS, Shard, shard_path, write_shard

WIDTH, PER_IMAGE = 16, 4


def write_table(folder: Path, images: int, *, seed: int = 0, entropies: bool = True, dataset: str = "made") -> Path:
    """`images` images of four objects in shards of 50 images."""
    settings = TokenSettings(entropies=entropies, shard_size=50)
    described = {"name": dataset, "split": "", "options": {}, "records": images, "problems": {}}
    manifest = Manifest(described, {"nano-s": "0" * 64, "nano-m": "1" * 64}, settings)
    manifest.claim(folder)
    for number, places in enumerate(manifest.shards):
        shard = _shard(places, np.random.default_rng([seed, number]), entropies, dataset)
        write_shard(shard_path(folder, number), shard, manifest.fingerprint)
    return folder


def _shard(places: list[int], rng: np.random.Generator, entropies: bool, dataset: str) -> Shard:
    count = len(places) * PER_IMAGE
    quality = rng.uniform(0.2, 0.95, count)
    ambiguity, unknown, unclear = rng.beta(0.6, 1.5, (3, count))
    latent = np.stack([quality, ambiguity, unknown, unclear], axis=1) - 0.4
    best = rng.integers(0, 3, count)
    columns = {}
    for model, better in (("nano-s", 0.0), ("nano-m", 1.0)):
        iou, samscore = _ious(rng, quality + better * 0.5 * unknown * (1 - quality), best, ambiguity)
        dense, dense_samscore = _ious(rng, quality + 0.6 * unclear * (1 - quality), best, np.zeros(count))
        columns[model] = {
            **_tokens(latent, iou),
            "iou": iou,
            "samscore": samscore,
            "dense_iou": dense,
            "dense_samscore": dense_samscore,
            "box_iou": dense,
            "box_samscore": dense_samscore,
        }
        if entropies:
            for name in ("h_std", "h_a", "h_xp", "h_theta", "h_t", "h_y"):
                noise = 0.4 * rng.random((count, 3))
                columns[model][name] = (0.6 * (1 - iou[:, 1:]) + noise).clip(0, 1).astype(np.float32)
    names = [f"image-{place}" for place in places for _ in range(PER_IMAGE)]
    texts = {name: [""] * count for name in TEXT_COLUMNS}
    texts |= {"image_id": names, "group": names, "dataset": [dataset] * count}
    texts["object_id"] = [f"{name}/{index % PER_IMAGE}" for index, name in enumerate(names)]
    area = rng.uniform(0.01, 0.5, count).astype(np.float32)
    return Shard(texts=texts, area=area, columns=columns, forward_seconds=9.0, seconds=10.0)


def _ious(
    rng: np.random.Generator, top: np.ndarray, best: np.ndarray, ambiguity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """IoUs (N, 4) of which `best` of the last three is `top`, and SamScores that miss it where it is
    ambiguous.
    """
    row = np.arange(len(top))
    iou = top[:, None] * rng.uniform(0.3, 0.8, (len(top), 4))
    iou[row, best + 1] = top
    samscore = (0.5 + 0.3 * iou + 0.05 * rng.normal(size=iou.shape)).clip(0, 1)
    missed = rng.random(len(top)) < ambiguity
    samscore[row[missed], (best[missed] + 1) % 3 + 1] = 0.99
    return iou.astype(np.float32), samscore.astype(np.float32)


def _tokens(latent: np.ndarray, iou: np.ndarray) -> dict[str, np.ndarray]:
    """An IoU token that tells the latent variables, and mask tokens that tell their own mask's IoU too."""
    world = np.random.default_rng(7)
    mix, own = world.normal(size=(latent.shape[1], WIDTH)), world.normal(size=WIDTH)
    iou_token = latent @ mix
    mask_tokens = 0.5 * iou_token[:, None] + (iou[:, :, None] - 0.5) * own
    return {"iou_token": iou_token.astype(np.float16), "mask_tokens": mask_tokens.astype(np.float16)}
