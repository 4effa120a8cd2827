"""Two workers on one project against one: PostgreSQL, Redis, a real Label Studio, and each worker on a host of its own.

Models run on one thread, so that two workers have two cores. Hosts are network namespaces on a bridge that this makes
and takes away again, where `ip` may (Linux, root); else both are on this one. Each worker has a data folder of its
own, so that nothing is encoded already. The time is the ranking's own, from its first look at the tasks until Label
Studio serves by it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backend.label_studio.records import UNCERTAINTY_SAMPLING
from backend.local.label_studio_server import LabelStudioServer
from backend.local.processes import ServerProcess, free_port
from backend.local.redis_server import redis_binary
from backend.resources import Resources
from backend.settings import Settings
from backend.store.records import Run
from bench.rows import Row
from bench.served import CONFIG, environment, label_studio_program, photographs

IMAGES = int(os.environ.get("BENCH_IMAGES", "96"))
NAMES = ("usam-bench-1", "usam-bench-2")
BRIDGE, NET = "usam-bench", "10.231.77"
PATIENCE_S = 240.0
Prefix = list[str]
"""What a command is begun with to run on a host."""


def run() -> list[Row]:
    """How much faster two workers rank a project than one."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        os.chmod(folder, 0o711)  # noqa: S103 (PostgreSQL runs as another account)
        address, prefixes, where = stack.enter_context(hosts())
        database = stack.enter_context(postgres(folder / "pg", address))
        redis = stack.enter_context(redis_on(folder / "redis", address))
        server = stack.enter_context(LabelStudioServer(label_studio_program(), folder / "ls", host=address))
        told = {
            "LABEL_STUDIO_URL": server.url,
            "LABEL_STUDIO_API_KEY": server.account.token,
            "REDIS_URL": redis,
            "USAM_MODEL": "nano-m",
            "USAM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "USAM_POINTS_PER_SIDE": "8",
            "USAM_SYNC_SECONDS": "600",
        }
        pictures = photographs(folder / "pictures", IMAGES)
        done = {}
        for count in (1, 2):
            with environment(told | {"USAM_DATABASE_URL": database(f"bench{count}")}):
                done[count] = ranked(folder / str(count), pictures, prefixes[:count])
    seconds = {count: float(run.details["seconds"]["until_served"]) for count, run in done.items()}
    shards = done[2].details["shards"]
    note = f"{IMAGES} photographs of 640 x 480, nano-m, 64 prompts, one thread each, {where}; {shards} shards"
    return [
        Row("ranking one project, one worker", 60 * IMAGES / seconds[1], "1/min", note=note),
        Row("ranking one project, two workers", 60 * IMAGES / seconds[2], "1/min", note=note),
        Row(
            "ranking one project, two workers / one",
            seconds[1] / seconds[2],
            "ratio",
            "one worker",
            ">= 1.7",
            note=note,
        ),
    ]


def ranked(folder: Path, pictures: Sequence[Path], prefixes: Sequence[Prefix]) -> Run:
    """The ranking of a new project by one worker on each host."""
    with ExitStack() as stack:
        opened = stack.enter_context(Resources.open(Settings.from_environment(data_dir=folder / "here")))
        project = opened.label_studio.create_project("workers", CONFIG, sampling=UNCERTAINTY_SAMPLING)
        opened.label_studio.upload(project.id, list(pictures))
        opened.store.join(project.id, project.stamp)
        for number, prefix in enumerate(prefixes):
            own = folder / f"host-{number}"
            own.mkdir(parents=True)
            worker = ServerProcess(
                f"worker-{number}",
                [*prefix, sys.executable, "-m", "backend.cli.main", "worker"],
                log=own / "log",
                environment={**os.environ, "USAM_DATA_DIR": str(own)},
            )
            stack.callback(worker.stop)
            worker.start(lambda: True, 60)
        wait("the workers", lambda: opened.queue.workers() == len(prefixes))
        opened.queue.wake(project.id, "sync")

        def look() -> Run | None:
            runs = opened.store.runs(project.id, "score_pool", limit=1)
            return runs[0] if runs and runs[0].state in ("done", "failed") else None

        found = wait("the ranking", look)
    if found.state != "done" or found.details["workers"] != len(prefixes) or found.details["failed"]:
        raise AssertionError(f"{found.state}: {found.reason}, {found.details}")
    return found


def wait(what: str, look: Callable[[], object]) -> Run:
    """What `look` finds, once it finds something. Raises `TimeoutError`."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come in {PATIENCE_S:.0f} s")
        time.sleep(0.2)
    return found  # type: ignore[return-value]


@contextmanager
def hosts() -> Iterator[tuple[str, list[Prefix], str]]:
    """An address that all hosts reach, what a command on each is begun with, and what they are, in words."""
    if os.name != "posix" or os.getuid() != 0 or not shutil.which("ip"):
        yield "127.0.0.1", [[] for _ in NAMES], "both on one host"
        return
    with ExitStack() as stack:
        try:
            ip("link", "add", BRIDGE, "type", "bridge")
            stack.callback(ip, "link", "del", BRIDGE)
            ip("addr", "add", f"{NET}.1/24", "dev", BRIDGE)
            ip("link", "set", BRIDGE, "up")
            for number, name in enumerate(NAMES):
                ip("netns", "add", name)
                stack.callback(ip, "netns", "del", name)
                outer = f"usamb{number}"
                ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("link", "set", outer, "master", BRIDGE, "up")
                ip("-n", name, "addr", "add", f"{NET}.{number + 2}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    ip("-n", name, "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            print(f"  no network namespaces here: {error.stderr.strip()}", flush=True)
            stack.close()
            yield "127.0.0.1", [[] for _ in NAMES], "both on one host"
            return
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"']
        prefixes = [["ip", "netns", "exec", name, *named, name] for name in NAMES]
        yield f"{NET}.1", prefixes, "each in a network namespace with a host name of its own"


def ip(*arguments: str) -> None:
    """Run `ip`. Raises `CalledProcessError`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def redis_on(folder: Path, address: str) -> Iterator[str]:
    """A Redis for all hosts; gives its address."""
    folder.mkdir()
    port = free_port(0, address)
    options = ["--bind", address, "--port", str(port), "--protected-mode", "no", "--dir", str(folder), "--save", ""]
    server = ServerProcess("redis", [str(redis_binary()), *options], log=folder / "log")
    server.start(lambda: True, 20)
    try:
        yield f"redis://{address}:{port}/0"
    finally:
        server.stop()


@contextmanager
def postgres(folder: Path, address: str) -> Iterator[Callable[[str], str]]:
    """A PostgreSQL for all hosts; gives what makes a database and tells its address."""
    import sqlalchemy as sql

    programs = shutil.which("initdb") or next(iter(sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))))
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    folder.mkdir()
    if os.getuid() == 0:
        shutil.chown(folder, user)
    port = free_port(0, address)

    def do(program: str, *arguments: str) -> None:
        command = [str(Path(programs).parent / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, capture_output=True, user=user, cwd=folder)

    def url(name: str) -> str:
        return f"postgresql+psycopg://usam@{address}:{port}/{name}"

    def create(name: str) -> str:
        engine = sql.create_engine(url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sql.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return url(name)

    do("initdb", "-U", "usam", "--auth=trust", "--encoding=UTF8", "--locale=C")
    with (folder / "data" / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {address}/24 trust\n")
    listen = f"-c listen_addresses={address} -c port={port} -c unix_socket_directories={folder}"
    do("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", listen)
    try:
        yield create
    finally:
        do("pg_ctl", "stop", "-m", "fast")
