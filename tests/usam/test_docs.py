"""What the README and the docs say can be done, can be done.

- docs/command-line.md holds the help text of every command of `usam` and of `usam-backend`;
  `USAM_UPDATE_DOCS=1 pytest tests/usam/test_docs.py` writes it.
- In blocks marked `bash`, lines that start with `usam`, `usam-backend` or `make` must be commands that exist, with
  options that exist.
- Blocks marked `python` are run, those of one file after another in one folder that holds a `photo.jpg`; blocks
  marked `py` are fragments and only have to be Python.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from backend.cli.main import app as backend_app
from usam.checkpoints.registry import DEFAULT_MODEL, checkpoint_path
from usam.cli.main import app
from usam.videos import VideoWriter

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
]
COMMAND_LINE = ROOT / "docs" / "command-line.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> list[Any]:
    """Every fenced block of these languages: (file name, text)."""
    found = []
    for document in DOCUMENTS:
        for number, (language, text) in enumerate(FENCE.findall(document.read_text(encoding="utf-8"))):
            if language in languages:
                found.append(pytest.param(document.name, text, id=f"{document.name}-{number}"))
    return found


def all_commands(command: Any, path: tuple[str, ...] = ("usam",)) -> dict[tuple[str, ...], Any]:
    """The command itself and all below it, by the words that call them."""
    found = {path: command}
    for name, below in getattr(command, "commands", {}).items():
        found |= all_commands(below, (*path, name))
    return found


def documented() -> dict[tuple[str, ...], Any]:
    """Every command of both programs, by the words that call them."""
    return {**all_commands(get_command(app)), **all_commands(get_command(backend_app), ("usam-backend",))}


def rendered(path: tuple[str, ...]) -> str:
    """The part of docs/command-line.md about one command."""
    program = app if path[0] == "usam" else backend_app
    result = CliRunner().invoke(program, [*path[1:], "--help"], prog_name=path[0], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    lines = "\n".join(line.rstrip() for line in result.stdout.strip().splitlines())
    return f"### {' '.join(path)}\n\n```text\n{lines}\n```\n"


def test_the_help_of_every_command_is_in_the_docs() -> None:
    """Compares words, not lines: how a help text is laid out is up to the version of typer."""
    commands = documented()
    text = COMMAND_LINE.read_text(encoding="utf-8")
    if os.environ.get("USAM_UPDATE_DOCS"):
        head = text.partition("\n### usam\n")[0].rstrip("\n")
        text = head + "\n\n" + "\n".join(rendered(path) for path in commands)
        COMMAND_LINE.write_text(text, encoding="utf-8")
    parts = re.split(r"^### (usam.*)$", text, flags=re.MULTILINE)[1:]
    sections = {
        tuple(title.split()): " ".join(body.split()) for title, body in zip(parts[::2], parts[1::2], strict=True)
    }
    remedy = "write the docs again: USAM_UPDATE_DOCS=1 pytest tests/usam/test_docs.py"
    assert list(sections) == list(commands), remedy
    for path, command in commands.items():
        expected = [command.help or ""]
        for parameter in command.params:
            expected += [getattr(parameter, "help", None) or "", *parameter.opts]
        for words in expected:
            assert _joined(words) in _joined(sections[path]), f"{words!r} of {path}: {remedy}"


def _joined(text: str) -> str:
    """In small letters, on one line, and not broken after a hyphen."""
    return re.sub(r"-\s+", "-", " ".join(text.split()).lower())


def check_arguments(command: Any, arguments: list[str], name: str) -> None:
    """Parse as the command line would, without running anything; click raises for what does not exist."""
    context = command.make_context(name, list(arguments), resilient_parsing=False)
    rest = [*getattr(context, "_protected_args", []), *context.args]
    if hasattr(command, "commands") and rest:
        found, below, remaining = command.resolve_command(context, rest)
        check_arguments(below, remaining, found)


@pytest.mark.parametrize(("document", "text"), blocks("bash"))
def test_shell_blocks_name_commands_that_exist(document: str, text: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if not words:
            continue
        name = Path(words[0]).name
        if name == "make":
            wanted = {word for word in words[1:] if "=" not in word and not word.startswith("-")}
            assert wanted <= targets, f"{document}: {line}"
        elif name == "usam":
            check_arguments(get_command(app), words[1:], "usam")
        elif name == "usam-backend":
            check_arguments(get_command(backend_app), words[1:], "usam-backend")


@pytest.mark.parametrize(("document", "text"), blocks("python", "py"))
def test_python_blocks_are_python(document: str, text: str) -> None:
    compile(text, document, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("document", [path.name for path in DOCUMENTS])
def test_python_blocks_run(document: str, tmp_path: Path) -> None:
    path = next(path for path in DOCUMENTS if path.name == document)
    program = "\n".join(
        text for language, text in FENCE.findall(path.read_text(encoding="utf-8")) if language == "python"
    )
    if not program:
        pytest.skip("no python in this document")
    if not checkpoint_path(DEFAULT_MODEL).is_file():
        pytest.skip("the bundled model is not trained yet")
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    with VideoWriter(tmp_path / "street.mp4", 10) as video:
        for number in range(3):
            video.write(np.roll(noise, 2 * number, 1))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted((ROOT / "docs").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run_from_top_to_bottom(notebook: Path, tmp_path: Path) -> None:
    """The cells hold plain Python alone, so that an interpreter without a kernel runs them as a notebook would."""
    pytest.importorskip("skimage", reason="needs the extra `demo`")
    pytest.importorskip("matplotlib", reason="needs the extra `science`")
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    program = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "1. " in done.stdout


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
            if "://" not in link and not link.startswith("mailto:") and not (document.parent / link).exists():
                broken.append(f"{document.name}: {link}")
    assert broken == []
