"""Runs a command beside a Fluvio of its own: a stream controller and two SPUs on free ports, in a temporary folder.

The command finds the controller's address in INTERDICT_FLUVIO. Where that is set already nothing is started.
Usage: fluvio.py -- COMMAND ARGUMENTS
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE_SECONDS = 60
SPUS = ["5001", "5002"]

# The steps for which Fluvio has a tool of its own, done without it. Built with what the tests are built with.
BUILD = ["cargo", "build", "--quiet", "--workspace", "--features", "fluvio-server", "--example", "fluvio_setup"]
SETUP = Path("target/debug/examples/fluvio_setup")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit(f"Fluvio does not listen on {port}:\n{log.read_text()}")


def start(arguments: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
    with log.open("wb") as output:
        return subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env=environment)


def run_beside_cluster(command: list[str], folder: Path) -> int:
    public, private, *spu_ports = free_ports(2 + 2 * len(SPUS))
    environment = dict(os.environ, HOME=str(folder))
    subprocess.run(BUILD, check=True)
    processes = []
    try:
        controller = start(
            ["fluvio-run", "sc", "--local", str(folder / "sc"), "--bind-public", f"127.0.0.1:{public}",
             "--bind-private", f"127.0.0.1:{private}"],
            folder / "sc.log", environment,
        )
        processes.append(controller)
        wait_for(public, controller, folder / "sc.log")
        for spu, spu_public, spu_private in zip(SPUS, spu_ports[::2], spu_ports[1::2]):
            own = [f"127.0.0.1:{spu_public}", f"127.0.0.1:{spu_private}"]
            for _also_where_it_is_there in range(2):
                subprocess.run([SETUP, "unit", f"127.0.0.1:{public}", spu, *own], check=True)
            log = folder / f"spu-{spu}.log"
            processes.append(start(
                ["fluvio-run", "spu", "-i", spu, "-p", own[0], "-v", own[1], "--sc-addr", f"127.0.0.1:{private}",
                 "--log-base-dir", str(folder / f"spu-{spu}")],
                log, environment,
            ))
            wait_for(spu_public, processes[-1], log)
        for _also_where_it_is_there in range(2):
            subprocess.run([SETUP, "topic", f"127.0.0.1:{public}", "decisions", "1"], check=True)
        return subprocess.call(command, env=dict(os.environ, INTERDICT_FLUVIO=f"127.0.0.1:{public}"))
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def main() -> int:
    command = sys.argv[sys.argv.index("--") + 1:]
    if os.environ.get("INTERDICT_FLUVIO"):
        return subprocess.call(command)
    if shutil.which("fluvio-run") is None:
        return "fluvio-run is not on the PATH: install Fluvio's server, or name a running one with INTERDICT_FLUVIO=HOST:PORT"
    with tempfile.TemporaryDirectory(prefix="interdict-fluvio-") as folder:
        return run_beside_cluster(command, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
