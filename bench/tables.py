"""Tables of tokens that topics measure on: kept ones where USAM_BENCH_TOKENS names their folder, else made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from usam.research.tokens import TokenTable


def data_folder() -> Path | None:
    """The folder with the labelled sets; None where USAM_SHARED does not name one."""
    shared = os.environ.get("USAM_SHARED", "")
    return Path(shared) / "data" if shared else None


def table(name: str, dataset: str, root: str, *words: str, made: Path) -> TokenTable:
    """The table `name`: a folder of USAM_BENCH_TOKENS, else made below `made` by `usam tokens DATASET ROOT WORDS`."""
    kept = Path(os.environ.get("USAM_BENCH_TOKENS") or "/nowhere") / name
    if kept.is_dir():
        return TokenTable.open(kept)
    data = data_folder()
    if data is None:
        raise FileNotFoundError(f"{name}: neither USAM_BENCH_TOKENS nor USAM_SHARED leads to it")
    command = [sys.executable, "-m", "usam.cli.main", "tokens", dataset, str(data / root), *words]
    subprocess.run([*command, "--out", str(made / name)], check=True, stdout=subprocess.DEVNULL)
    return TokenTable.open(made / name)
