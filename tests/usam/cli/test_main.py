"""The command line as a user meets it: its start, its output, its errors, its exit codes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from usam import __version__
from usam.checkpoints import registry as checkpoints
from usam.cli.main import app
from usam.heads.head_set import HeadSet

GAPS = ("model_gap", "prompt_gap", "task_gap")


def run(*arguments: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, list(arguments), input=stdin)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of downloads."""
    monkeypatch.setenv("USAM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with an untrained nano-s."""
    from usam.checkpoints.nano import build_nano, save_nano

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(5)
    digest = save_nano(build_nano("nano-s"), folder / "nano_s.safetensors")
    (folder / "registry.toml").write_text(
        '[[checkpoint]]\nname = "nano-s"\nfamily = "nano"\nfile = "nano_s.safetensors"\nbundled = true\n'
        f'sha256 = "{digest}"\nlicence = "Apache-2.0"\nconfig = "nano-s"\nimage_size = 256\nwidth = 128\n'
    )
    return folder


@pytest.fixture
def nano(untrained: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, in use."""
    monkeypatch.setenv("USAM_MODELS", str(untrained))
    return untrained


@pytest.fixture
def heads(tmp_path: Path, nano: Path) -> Path:
    """A folder of heads for nano-s."""
    width = checkpoints.find("nano-s").width
    random = np.random.default_rng(3)
    layers = {
        name: [
            (random.normal(0, 0.1, (8, 2 * width)), np.zeros(8)),
            (random.normal(0, 0.1, (1, 8)), np.zeros(1)),
        ]
        for name in ("iou_nano_s", *GAPS)
    }
    made = HeadSet.from_layers(layers, alignment="aligned", checkpoint="nano-s", quality="iou_nano_s")
    made.save(tmp_path / "heads")
    return tmp_path / "heads"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """An image of 80 x 60 pixels."""
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 80, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["fetch", "--help"], ["predict", "--help"]])
def test_the_command_line_starts_without_the_heavy_packages(arguments: list[str]) -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from usam.cli.main import app;"
        f"result = CliRunner().invoke(app, {arguments}); assert result.exit_code == 0, result.output;"
        "heavy = {'torch', 'torchvision', 'sam2', 'timm', 'scipy', 'cv2', 'numpy', 'PIL'} & sys.modules.keys();"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_installed_script_says_its_version() -> None:
    script = Path(sys.executable).with_name("usam")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"usam {__version__}\n"


def test_models_lists_what_is_here_and_what_is_not(home: Path) -> None:
    path = checkpoints.checkpoint_path("sam2.1_hiera_tiny")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"there")
    lines = {line.split()[0]: line for line in run("models").stdout.splitlines() if line.strip()}
    assert " yes " in lines["sam2.1_hiera_tiny"]
    assert " - " in lines["sam2.1_hiera_large"]
    assert "898" in lines["sam2.1_hiera_large"]
    assert lines["usam-heads-sam2.1"].endswith("none stated")
    rows = {row["name"]: row for row in json.loads(run("models", "--json").stdout)}
    assert rows.keys() == {*checkpoints.registry(), *checkpoints.published_heads()}
    assert rows["sam2.1_hiera_tiny"]["here"] is True
    assert rows["sam2.1_hiera_tiny"]["path"] == str(path)


def write_registry(folder: Path, monkeypatch: pytest.MonkeyPatch, site: Any) -> None:
    digest = hashlib.sha256(site.content).hexdigest()
    folder.mkdir()
    (folder / "registry.toml").write_text(
        f'[[checkpoint]]\nname = "theirs"\nfamily = "sam2.1"\nfile = "theirs.pt"\naddress = "{site.address}"\n'
        f'sha256 = "{digest}"\nbytes = {len(site.content)}\nlicence = "Apache-2.0"\n'
        'config = "configs/sam2.1/sam2.1_hiera_t.yaml"\nimage_size = 1024\nwidth = 256\n'
        f'[[heads]]\nname = "their-heads"\nfamily = "sam2.1"\naddress = "{site.address}/{{head}}"\n'
        f'licence = "none stated"\n[heads.sha256]\ntask_gap = "{digest}"\n'
    )
    monkeypatch.setenv("USAM_MODELS", str(folder))


def test_fetch_prints_the_path(tmp_path: Path, home: Path, site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_registry(tmp_path / "models", monkeypatch, site)
    result = run("fetch", "theirs")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(home / "checkpoints" / "theirs.pt")
    assert (home / "checkpoints" / "theirs.pt").read_bytes() == site.content


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_fetch_shows_progress_and_the_time_left_on_a_terminal(
    tmp_path: Path, home: Path, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pty

    write_registry(tmp_path / "models", monkeypatch, site)
    site.pause = 0.15
    ours, theirs = pty.openpty()
    program = [sys.executable, "-m", "usam.cli.main", "fetch", "theirs"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    shown = b""
    with subprocess.Popen(program, stderr=theirs, stdout=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):
            while block := os.read(ours, 4096):
                shown += block
        os.close(ours)
        assert process.wait(timeout=60) == 0
        assert process.stdout is not None
        assert process.stdout.read().decode().strip().endswith("theirs.pt")
    assert b"512.0 kB" in shown
    assert re.search(rb"kB/s", shown)
    assert re.search(rb"0:00:0\d", shown)


def test_fetch_of_a_wrong_file_is_one_line_and_exit_code_2(
    tmp_path: Path, home: Path, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_registry(tmp_path / "models", monkeypatch, site)
    site.content = bytes(len(site.content))
    result = run("fetch", "theirs")
    assert result.exit_code == 2
    assert result.stdout == ""
    message = result.stderr.splitlines()[-1]
    assert message.startswith("usam: expected a file with SHA-256")
    assert "refused and removed" in message
    assert "Traceback" not in result.stderr


def test_fetch_asks_before_files_without_a_licence(
    tmp_path: Path, home: Path, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_registry(tmp_path / "models", monkeypatch, site)
    refused = run("fetch", "their-heads")
    assert refused.exit_code == 2
    assert "states no licence" in refused.stderr
    assert "--accept-no-licence" in refused.stderr
    assert site.requests == []
    taken = run("fetch", "their-heads", "--accept-no-licence")
    assert taken.exit_code == 0, taken.output
    assert (home / "heads" / "their-heads" / "task_gap" / "model.pth").read_bytes() == site.content


def test_an_unknown_model_is_one_line_and_exit_code_2(picture: Path) -> None:
    result = run("predict", str(picture), "--point", "1,1", "--model", "nano-x")
    assert result.exit_code == 2
    assert result.stderr.startswith("usam: expected one of ")
    assert result.stderr.count("\n") == 1


def test_debug_shows_where_an_error_arose() -> None:
    program = [sys.executable, "-m", "usam.cli.main"]
    plain = subprocess.run([*program, "fetch", "nothing"], capture_output=True, text=True, timeout=60)
    debug = subprocess.run([*program, "--debug", "fetch", "nothing"], capture_output=True, text=True, timeout=60)
    assert plain.returncode == 2
    assert "Traceback" not in plain.stderr
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a prompt, got none; give --point"),
        (["--point", "5"], r"--point x,y"),
        (["--point", "5,a"], r"got '5,a'"),
        (["--point", "5,5,3"], "1 on the object, 0 beside it, got 5,5,3"),
        (["--point", "5,5,1,1"], "--point x,y"),
        (["--box", "1,2,3"], "--box x0,y0,x1,y1, got '1,2,3'"),
        (["--point", "80,5"], "80"),
        (["--point", "nan,5"], "NaN"),
        (["--box", "30,30,10,10"], "30"),
    ],
)
def test_a_prompt_that_is_none_is_said(nano: Path, picture: Path, arguments: list[str], message: str) -> None:
    result = run("predict", str(picture), "--model", "nano-s", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("usam: expected ")


@pytest.mark.parametrize("name", ["nowhere.png", "text.png"])
def test_an_image_that_is_none_is_said(nano: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "text.png").write_text("no image")
    result = run("predict", str(tmp_path / name), "--model", "nano-s", "--point", "5,5")
    assert result.exit_code == 2
    assert name in result.stderr or "image" in result.stderr


def test_predict_writes_a_picture_and_json(picture: Path, heads: Path, tmp_path: Path) -> None:
    out = tmp_path / "overlay.png"
    arguments = ["predict", str(picture), "--point", "40,30", "--point", "2,2,0", "--model", "nano-s"]
    page = tmp_path / "page.html"
    result = run(*arguments, "--heads", str(heads), "--out", str(out), "--report", str(page), "--json")
    assert result.exit_code == 0, result.output
    assert "data:image/png;base64" in page.read_text()
    assert "task_gap" in page.read_text()
    report = json.loads(result.stdout)
    assert (report["width"], report["height"], report["model"]) == (80, 60, "nano-s")
    assert report["heads"] == HeadSet.load(heads).version
    assert len(report["masks"]) == 3
    for mask in report["masks"]:
        assert set(mask["scores"]) == {"iou_nano_s", *GAPS}
        assert 0 <= mask["area_px"] <= 80 * 60
    qualities = [mask["scores"]["iou_nano_s"] for mask in report["masks"]]
    assert qualities[report["best"]] == max(qualities)
    with Image.open(out) as drawn:
        assert drawn.width > 1000


def test_predict_with_a_box_and_no_heads_prints_a_table(nano: Path, picture: Path) -> None:
    result = run("predict", str(picture), "--box", "10,10,60,50", "--model", "nano-s", "--heads", "none")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["score", "mask", "1", "mask", "2", "mask", "3"]
    assert [line[0] for line in lines[1:]] == ["samscore"]
    assert all(0 <= float(value) <= 1 for value in lines[1][1:])


def test_verify_says_what_is_missing_by_its_exit_code(nano: Path, heads: Path) -> None:
    complete = run("verify", "nano-s", "--heads", str(heads))
    assert complete.exit_code == 0, complete.output
    assert complete.stdout.splitlines()[-1] == "all there"
    assert "task_gap" in complete.stdout
    without = run("verify", "nano-s")
    assert without.exit_code == 1
    assert "missing heads for nano-s" in without.stdout


def test_verify_of_a_checkpoint_that_is_not_here_says_how_to_get_it(home: Path) -> None:
    result = run("verify", "sam2.1_hiera_large")
    assert result.exit_code == 2
    assert "fetch it with: usam fetch sam2.1_hiera_large" in result.stderr
    assert str(home / "checkpoints" / "sam2.1_hiera_large.pt") in result.stderr


def test_the_default_model_comes_with_the_program(home: Path, picture: Path) -> None:
    if not checkpoints.checkpoint_path(checkpoints.DEFAULT_MODEL).is_file():
        pytest.skip("the bundled model is not trained yet")
    result = run("predict", str(picture), "--point", "40,30", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"] == checkpoints.DEFAULT_MODEL
