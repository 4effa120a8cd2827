"""Lets the tests of this folder import `synthetic_table`, and trains heads on such a table once."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def table_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token table of 480 objects in 120 images by nano-s and nano-m, with entropies."""
    from synthetic_table import write_table

    return write_table(tmp_path_factory.mktemp("table"), images=120)


@pytest.fixture(scope="session")
def heads_folder(table_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of nano-s that `usam train` made of it."""
    from typer.testing import CliRunner

    from usam.cli.main import app

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("heads")
    command = ["train", str(table_folder), "--out", str(out), "--model", "nano-s", "--epochs", "15", "--device", "cpu"]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0, outcome.output
    return out
