"""A labelled set out of a known truth, heads trained on others of its kind, and campaigns that are short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.usam.research.evaluation.synthetic_table import write_table
from usam.heads.head_set import HeadSet
from usam.research.simulation.labelled_set import LabelledSet
from usam.research.tokens import TokenTable
from usam.research.tokens.examples import read_examples
from usam.training import TrainSettings, fit_heads


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> TokenTable:
    """120 objects in 30 images, with entropies."""
    return TokenTable.open(write_table(tmp_path_factory.mktemp("campaign"), 30, seed=5))


@pytest.fixture(scope="session")
def labelled(table: TokenTable) -> LabelledSet:
    return LabelledSet.read([table], "nano-m")


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> HeadSet:
    """Heads of nano-m whose last layers are off: labels have something to teach."""
    others = TokenTable.open(write_table(tmp_path_factory.mktemp("others"), 60, seed=1))
    examples = read_examples([others], "nano-m")
    settings = TrainSettings(hidden=(32, 16), epochs=8, batch=32, members=1, precision="float32", device="cpu")
    fitted = fit_heads(
        examples.iou_token,
        examples.mask_tokens,
        examples.targets,
        examples.groups,
        settings=settings,
        checkpoint="nano-m",
        quality="iou_nano_m",
    ).heads
    layers = fitted.layers()
    rng = np.random.default_rng(3)
    for *_, (weight, bias) in layers.values():
        weight += 0.4 * np.abs(weight).mean() * rng.normal(size=weight.shape).astype(np.float32)
        bias -= 0.8
    return HeadSet.from_layers(layers, alignment=fitted.alignment, checkpoint="nano-m", quality="iou_nano_m")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
