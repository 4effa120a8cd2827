"""docker-compose.yml, Dockerfile and deploy/: checked as far as they can be without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from backend.local.processes import ServerProcess, free_port
from backend.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = shutil.which("docker-compose")
needs_compose = pytest.mark.skipif(COMPOSE is None, reason="docker-compose is not installed")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A clean directory with what a site needs, and an .env of its own."""
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    subprocess.run([tmp_path / "deploy" / "make-env.sh"], check=True, capture_output=True)
    return tmp_path


def composed(site: Path, *arguments: str) -> dict[str, Any]:
    assert COMPOSE is not None
    done = subprocess.run(
        [COMPOSE, *arguments, "config"], cwd=site, capture_output=True, text=True, env=clean_environment()
    )
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = yaml.safe_load(done.stdout)
    return loaded


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}


@needs_compose
def test_nothing_starts_without_secrets(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    done = subprocess.run(
        [str(COMPOSE), "config"], cwd=tmp_path, capture_output=True, text=True, env=clean_environment()
    )
    assert done.returncode != 0
    assert "deploy/make-env.sh" in done.stderr


def test_secrets_are_random_private_and_kept(site: Path) -> None:
    first = (site / ".env").read_text()
    secrets = [line.split("=", 1)[1] for line in first.splitlines() if not line.startswith("LABEL_STUDIO_USERNAME")]
    assert len(set(secrets)) == len(secrets) == 5
    assert all(re.fullmatch(r"[0-9a-f]{32,40}", secret) for secret in secrets)
    assert (site / ".env").stat().st_mode & 0o077 == 0
    subprocess.run([site / "deploy" / "make-env.sh"], check=True, capture_output=True)
    assert (site / ".env").read_text() == first


@needs_compose
@pytest.mark.parametrize("profile", [(), ("--profile", "gpu")])
def test_the_stack_is_whole(site: Path, profile: tuple[str, ...]) -> None:
    services = composed(site, *profile)["services"]
    assert {"label-studio", "postgres", "redis", "backend", "worker"} <= set(services)
    assert all(services[name].get("profiles") == ["gpu"] for name in services if name.endswith("-gpu"))
    for name in ("label-studio", "backend", "postgres", "redis"):
        aliases = services[name]["networks"]["usam"]["aliases"]
        assert all("." in alias for alias in aliases), "Label Studio makes no webhook for a one-label host"
    redis = str(services["redis"]["command"])
    assert "appendonly" in redis
    assert "noeviction" in redis
    for name in ("label-studio", "postgres", "redis"):
        assert services[name]["healthcheck"]["test"]
        assert any("data" in volume for volume in map(str, services[name]["volumes"]))


@needs_compose
def test_every_setting_in_it_is_one_the_service_reads(site: Path) -> None:
    known = {*Settings.from_environment().summary(), "USAM_HOME"}
    services = composed(site, "--profile", "gpu")["services"]
    for name in ("backend", "worker", "backend-gpu", "worker-gpu"):
        assert set(services[name]["environment"]) <= known


@needs_compose
def test_images_named_by_the_public_address_are_label_studios_own(site: Path) -> None:
    with (site / ".env").open("a") as file:
        file.write("LABEL_STUDIO_PUBLIC_URL=https://labels.example.com\n")
    services = composed(site)["services"]
    assert services["label-studio"]["environment"]["LABEL_STUDIO_HOST"] == "https://labels.example.com"
    for name in ("backend", "worker"):
        aliases = services[name]["environment"]["USAM_LABEL_STUDIO_ALIASES"]
        assert Settings(label_studio_aliases=aliases).label_studio_aliases == ("https://labels.example.com",)


def test_the_dockerfile_copies_and_installs_what_exists() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    locks = re.findall(r"-r ([\w./-]+)", dockerfile)
    assert locks
    assert all((ROOT / lock).is_file() for lock in locks)


def test_the_images_commands_run_in_a_clean_directory(site: Path) -> None:
    """The image's own command line, health check included, with the environment docker-compose would give."""
    env_file = dict(line.split("=", 1) for line in (site / ".env").read_text().splitlines())
    port = free_port()
    environment = clean_environment() | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": env_file["LABEL_STUDIO_API_KEY"],
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "USAM_AUTH_USER": "usam",
        "USAM_AUTH_PASSWORD": env_file["USAM_AUTH_PASSWORD"],
        "USAM_DATA_DIR": str(site / "data"),
        "USAM_RANDOM_WEIGHTS": "true",
        "USAM_HEADS": "none",
    }
    (command,) = re.findall(r"^CMD \[(.+)\]$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    words = [word.strip().strip('"') for word in command.split(",")]
    words[words.index("9090")] = str(port)
    words[0] = str(Path(sys.executable).parent / words[0])
    log = site / "serve.log"

    def healthy() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    with ServerProcess("serve", words, log=log, environment=environment) as server:
        server.start(healthy, 60)
        assert httpx.get(f"http://127.0.0.1:{port}/versions", timeout=5).status_code == 401
        assert env_file["USAM_AUTH_PASSWORD"] not in log.read_text()
        assert env_file["LABEL_STUDIO_API_KEY"] not in log.read_text()
        time.sleep(0.1)
        assert server.running
