"""Features of made-up projects: classes as blobs in 24 dimensions, objects spread over images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from usam.objects.project_heads import Examples

WIDTH = 24


def blobs(counts: dict[str, int], *, spread: float = 1.0, seed: int = 0, per_image: int = 3) -> Examples:
    """So many objects of each class, shuffled over images; the class '' is what nobody wants."""
    rng = np.random.default_rng(seed)
    centres = {name: np.random.default_rng([1, *name.encode()]).normal(0, 1, WIDTH) for name in counts}
    names = [name for name, count in counts.items() for _ in range(count)]
    names = [names[index] for index in rng.permutation(len(names))]
    features = np.array([centres[name] + rng.normal(0, spread, WIDTH) for name in names], np.float32)
    return Examples(
        features=features.reshape(len(names), WIDTH),
        shapes=rng.random((len(names), 2)).astype(np.float32),
        images=[index // per_image for index in range(len(names))],
        regions=list(range(len(names))),
        labels=[(name,) if name else () for name in names],
        overlap=np.array([float(bool(name)) for name in names]),
        proposed=np.ones(len(names), bool),
    )


def accuracy(probabilities: npt.NDArray[np.float64], classes: tuple[str, ...], examples: Examples) -> float:
    """Share of the labelled objects whose likeliest class is the right one."""
    right = [
        classes[int(row.argmax())] == given[0]
        for row, given in zip(probabilities, examples.labels, strict=True)
        if given
    ]
    return float(np.mean(right))
