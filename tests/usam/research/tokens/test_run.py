"""Runs that are killed, gone on with, shared out and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from usam.cli.main import app
from usam.errors import TokensError
from usam.research.datasets import open_dataset
from usam.research.nano.stored_images import nano_split
from usam.research.tokens import RunReport, TokenSettings, TokenTable, extract_tokens
from usam.research.tokens.models import untrained_predictor


def run(labelled: Path, out: Path, *, models: tuple[str, ...] = ("nano-s",), **options: Any) -> RunReport:
    names = set(TokenSettings.__dataclass_fields__)
    settings = TokenSettings(**{"shard_size": 1} | {k: v for k, v in options.items() if k in names})
    rest = {key: value for key, value in options.items() if key not in names}
    return extract_tokens(open_dataset("coco", labelled), out, models, settings, load_model=untrained_predictor, **rest)


def shards(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("shards/*.safetensors"))


def assert_equal(first: Path, second: Path) -> None:
    one, other = TokenTable.open(first), TokenTable.open(second)
    for model in one.model_names:
        ours, theirs = one.arrays(model), other.arrays(model)
        assert ours.keys() == theirs.keys()
        for column, values in ours.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(values, theirs[column], atol=2e-3, err_msg=column)
            else:
                assert values.tolist() == theirs[column].tolist()


def test_a_run_killed_at_any_point_goes_on_and_gives_the_same_table(labelled: Path, tmp_path: Path) -> None:
    whole = run(labelled, tmp_path / "whole")
    assert (whole.shards, whole.objects) == (7, 14)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "usam.cli.main", "tokens", "coco", str(labelled), "--out", str(out)]
    command += ["--models", "nano-s", "--shard-size", "1", "--untrained"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(shards(out)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = shards(out)
    assert process.returncode == -signal.SIGKILL
    assert 2 <= len(there) < 7
    with pytest.raises(TokensError, match="run the same usam tokens command to finish"):
        TokenTable.open(out)
    stamps = {name: (out / "shards" / name).stat().st_mtime_ns for name in there}
    (out / "shards" / f".{shards(tmp_path / 'whole')[6]}.partial").write_bytes(b"half a file")

    finished = subprocess.run(command, check=True, capture_output=True, text=True)

    assert f"({len(there)} were there)" in finished.stdout
    assert "outside SAM's forward passes" in finished.stdout
    assert stamps == {name: (out / "shards" / name).stat().st_mtime_ns for name in there}
    assert not list(out.glob("shards/.*"))
    assert_equal(tmp_path / "whole", out)


def test_shares_fill_one_folder_and_workers_give_the_same(labelled: Path, tmp_path: Path) -> None:
    run(labelled, tmp_path / "alone", shard_size=2)
    for index in range(2):
        report = run(labelled, tmp_path / "shared", shard_size=2, share=(index, 2))
        assert report.shards == 2
    assert_equal(tmp_path / "alone", tmp_path / "shared")
    seen: list[tuple[int, int]] = []
    report = run(
        labelled, tmp_path / "pool", shard_size=2, workers=2, progress=lambda done, total: seen.append((done, total))
    )
    assert report.objects == 14
    assert report.problems == {"empty mask": 1}
    assert seen[0] == (0, 7)
    assert seen[-1] == (7, 7)
    assert_equal(tmp_path / "alone", tmp_path / "pool")


def test_another_make_is_refused_with_what_differs(labelled: Path, tmp_path: Path) -> None:
    run(labelled, tmp_path, limit=1)
    with pytest.raises(TokensError, match="settings seed: 0 there, 3 wanted"):
        run(labelled, tmp_path, limit=1, seed=3)
    with pytest.raises(TokensError, match=r"models nano-m: None there, 'untrained"):
        run(labelled, tmp_path, limit=1, models=("nano-s", "nano-m"))
    with pytest.raises(TokensError, match="dataset split: None there, 'val' wanted"):
        run(labelled, tmp_path, limit=1, identity={"split": "val"})
    assert run(labelled, tmp_path, limit=1).skipped_shards == 1


def test_shards_without_a_manifest_are_not_taken_over(labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000000.safetensors").write_bytes(b"")
    with pytest.raises(TokensError, match="shards with their manifest"):
        run(labelled, tmp_path)


def test_limits_caps_and_parts(labelled: Path, tmp_path: Path) -> None:
    run(labelled, tmp_path / "few", limit=3, max_objects=1, min_pixels=200)
    few = TokenTable.open(tmp_path / "few")
    assert set(few.texts()["image_id"]) <= {"1", "4", "7"}
    assert few.arrays("nano-s", ["area"])["area"].min() * 60 * 80 >= 200
    assert set(few.problems) <= {"object beyond the most of an image", "object under the least size", "empty mask"}
    parts = {"train": 0.5, "test": 0.5}
    groups = []
    for part in parts:
        run(labelled, tmp_path / part, part=part, fractions=parts)
        groups.append(set(TokenTable.open(tmp_path / part).texts()["group"]))
    assert groups[0] | groups[1] == {f"coco/{number}" for number in range(1, 8)}
    assert not groups[0] & groups[1]


def test_an_image_that_cannot_be_read_is_counted_and_passed_over(labelled: Path, tmp_path: Path) -> None:

    broken = tmp_path / "broken"
    shutil.copytree(labelled, broken)
    data = (broken / "val2017" / "3.png").read_bytes()
    (broken / "val2017" / "3.png").write_bytes(data[:200])
    report = run(broken, tmp_path / "out", shard_size=7)
    assert report.problems["unreadable image"] == 1
    assert "3" not in TokenTable.open(tmp_path / "out").texts()["image_id"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "4/4"], "a share i/n with 0 <= i < n"),
        (["--shard", "one"], "--shard i/n"),
        (["--part", "exam"], "one of the parts train, val, test"),
        (["--fractions", "1"], "--fractions as three numbers"),
        (["--models", "nano-s,nano-s"], "names of models, each once"),
        (["--models", "sam9"], "nano-s"),
        (["--option", "every"], "--option name=value"),
        (["--option", "every=2"], "options that coco knows"),
        (["--split", "train"], "one of the splits val2017"),
    ],
)
def test_the_command_says_what_is_wrong(labelled: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    command = ["tokens", "coco", str(labelled), "--out", str(tmp_path / "out"), "--untrained", *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_heads_that_ship_learn_from_no_image_that_forbids_derivatives(labelled: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(labelled, root)
    path = next((root / "annotations").glob("instances_*.json"))
    document = json.loads(path.read_text())
    document["licenses"] = [{"id": 1, "name": "Attribution-NoDerivs License"}, {"id": 2, "name": "Attribution License"}]
    for image in document["images"]:
        image["license"] = 1 + int(image["id"]) % 2
    path.write_text(json.dumps(document))
    run(root, tmp_path / "all")
    run(root, tmp_path / "learnt", part="nano-train")
    learnt = {group for group in TokenTable.open(tmp_path / "learnt").texts()["group"]}
    everything = {group for group in TokenTable.open(tmp_path / "all").texts()["group"]}
    allowed = {str(image["id"]) for image in document["images"] if image["license"] == 2}
    in_part = {group for group in everything if nano_split(group) == "train"}
    assert learnt == {group for group in in_part if Path(group).stem.lstrip("0") in allowed}
    assert learnt < in_part
