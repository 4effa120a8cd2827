"""The names that `usam` offers: which, how light, how typed, and that their examples run."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import usam

NAMES = [
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


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_names_are_these() -> None:
    assert usam.__all__ == NAMES
    assert set(NAMES) <= set(dir(usam))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_what_its_module_defines(name: str) -> None:
    value = getattr(usam, name)
    assert value.__name__ == name
    assert value.__doc__
    assert value.__module__.startswith("usam.")
    assert value is getattr(sys.modules[value.__module__], name)


def test_another_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(AttributeError, match=r"'lode'; it offers HeadSet, .*read_image"):
        usam.lode  # noqa: B018


def test_the_published_name_stays() -> None:
    from usam.patch_sam2 import patch_sam2

    assert patch_sam2 is usam.patch


def test_importing_usam_imports_nothing_heavy() -> None:
    program = "import sys; before = set(sys.modules); import usam; print(*sorted(set(sys.modules) - before))"
    loaded = {name.partition(".")[0] for name in run(program).split()}
    assert loaded.isdisjoint({"torch", "numpy", "scipy", "cv2", "PIL", "sam2", "timm", "pydantic", "httpx"}), loaded


def test_an_error_and_a_ranking_need_no_torch() -> None:
    program = "import sys; from usam import UsamError, rank_pool, read_image, Prompt; print('torch' in sys.modules)"
    assert run(program) == "False"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_documented_with_its_parameters_and_an_example(name: str) -> None:
    value: Any = getattr(usam, name)
    text = inspect.getdoc(value) or ""
    assert ">>> " in text
    if inspect.isclass(value):
        return
    assert "\nReturns\n-------\n" in text
    described = text.partition("Parameters\n----------\n")[2].partition("\nReturns\n")[0]
    names = {word for line in described.splitlines() if line[:1].strip() for word in line.split(", ")}
    assert names == set(inspect.signature(value).parameters)


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_give_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture = np.full((120, 160, 3), 90, np.uint8)
    picture[30:90, 20:80] = (220, 40, 40)
    Image.fromarray(picture).save("photo.jpg")
    names = {"usam": usam, "np": np, "image": usam.read_image("photo.jpg")}
    text = inspect.getdoc(getattr(usam, name)) or ""
    example = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert example.examples
    report: list[str] = []
    doctest.DocTestRunner().run(example, out=report.append)
    assert not report, "".join(report)


@pytest.mark.slow
def test_type_checkers_see_what_load_and_patch_return(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    (tmp_path / "use.py").write_text(
        "import usam\n"
        "class Still:\n"
        "    def set_image(self, image: object) -> None: ...\n"
        "class Moving:\n"
        "    def propagate_in_video(self, inference_state: object) -> None: ...\n"
        "reveal_type(usam.load('nano-m'))\n"
        "reveal_type(usam.load('nano-m').predict()[3])\n"
        "reveal_type(usam.patch(Still()))\n"
        "reveal_type(usam.patch(Moving()))\n"
        "reveal_type(usam.rank_pool)\n"
        "usam.lode\n",
        encoding="utf-8",
    )
    root = Path(usam.__file__).parents[1]
    out, errors, _ = api.run(
        [
            f"--config-file={root / 'pyproject.toml'}",
            f"--cache-dir={root / '.mypy_cache'}",
            "--follow-imports=silent",
            str(tmp_path / "use.py"),
        ]
    )
    assert not errors, errors
    revealed = [line.partition("Revealed type is ")[2].strip('"') for line in out.splitlines() if "Revealed" in line]
    assert revealed[0] == "usam.predictor.image.PatchedImagePredictor", out
    assert revealed[1].startswith("dict[str,") or revealed[1].startswith("builtins.dict[builtins.str,"), out
    assert revealed[2] == "usam.predictor.image.PatchedImagePredictor", out
    assert revealed[3] == "usam.predictor.video.PatchedVideoPredictor", out
    assert "Ranking" in revealed[4], out
    assert 'Module has no attribute "lode"' in out, out
