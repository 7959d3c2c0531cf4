"""The real thing on one machine: private PostgreSQL and Redis, an ingestor, two scorers and a monitor on them, a webhook receiver and live
payments. With `--store embedded` one process plays every role.

    make stack                       or: python3 examples/postgres/stack.py --seconds 60 --rate 200

Forty days of history are loaded first; the ingestor reads them as a snapshot and goes on with every payment as it commits. Fraudulent accounts are blocked by an UPDATE in the same database. Shown once a second, by the database's own
clock: payments, decisions, accounts blocked, and the time from the commit of a payment to the commit of its block. It fails where a payment
is not decided, and where enough of them block nobody or bring no alert.
"""

import argparse
import http.server
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import servers  # noqa: E402  (beside this file)
from receiver import Receiver, say  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
HISTORY_DAYS = 40
#: As many payments have frauds and drift among them.
ENOUGH = 8000
#: What is started by what features live in; decisions are counted by scorers.
ROLES = {"redis": ["ingest", "scorer", "scorer", "monitor"], "embedded": ["all"]}
POPULATION = ["--customers", "2000", "--terminals", "4000", "--seed", "7", "--label-as", "stream"]
#: Commit of the blocking payment to commit of the block, milliseconds, of the accounts blocked since the last look.
LATENCY = """
SELECT count(*), coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), 0),
       coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms), 0), coalesce(max(ms), 0)
FROM (SELECT extract(epoch FROM pg_xact_commit_timestamp(a.xmin) - pg_xact_commit_timestamp(t.xmin)) * 1000 AS ms
      FROM accounts a JOIN transactions t ON t.transaction_id = a.blocked_for::bigint
      WHERE a.status = 'blocked') AS block
"""


def query(url, sql):
    """The rows of a statement, each a list of texts."""
    done = subprocess.run(["psql", url, "-XAtq", "-F", "\t", "-c", sql], check=True, capture_output=True, text=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def configure(folder, running, store, receiver):
    """The example's configuration with this run's addresses; the example itself is what is run."""
    text = (HERE / "interdict.toml").read_text()
    text = text.replace("postgres://interdict@127.0.0.1:5432/bank", running.postgres)
    if store == "redis":
        redis = f'[store]\ntype = "redis"\nurl = "{running.redis}"\ndecisions_keep = "30d"'
        text = text.replace('[store]\npath = "data"', redis)
    bundle = (HERE / "../handbook/bundle").resolve()
    text = text.replace('bundle = "../handbook/bundle"', f'bundle = "{bundle}"')
    # Small windows of drift, so that a minute shows what a week would.
    text += f"""
drift_rows = 2000
drift_rows_min = 500
drift_age = "20s"

[[monitor.webhook]]
url = "http://127.0.0.1:{receiver}/alerts"
secret_env = "INTERDICT_STACK_SECRET"
"""
    path = folder / "interdict.toml"
    path.write_text(text)
    return path


class Process:
    """One process of the deployment, with an address of its own."""

    def __init__(self, program, config, role, environment):
        self.role, self.port = role, servers.free_port()
        command = [program, "run", "--config", config, "--role", role, "--bind", f"127.0.0.1:{self.port}"]
        self.run = subprocess.Popen(command, env=environment)

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


def total(processes, name):
    """A counter over all processes."""
    return sum(metrics(process.port).get(name, 0) for process in processes)


def metrics(port):
    """The sums of the counters by name; empty while nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
            lines = answer.read().decode().splitlines()
    except (urllib.error.URLError, OSError):
        return {}
    sums = {}
    for line in lines:
        found = re.match(r"^([a-z_]+)(?:\{[^}]*\})? ([0-9.eE+-]+)$", line)
        if found:
            sums[found[1]] = sums.get(found[1], 0) + float(found[2])
    return sums


def wait_for(what, condition, processes, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        for process in processes:
            if process.run.poll() is not None:
                sys.exit(f"{what}: the {process.role} ended with {process.run.returncode}; its log is above")
        if time.monotonic() > end:
            sys.exit(f"{what}: not after {seconds} s")
        time.sleep(0.1)


def show(url, processes, loaded, seconds, load):
    """A line a second until the load ends; the last line's values."""
    began = time.monotonic()
    while True:
        ended = load.poll() is not None
        paid = int(query(url, "SELECT count(*) FROM transactions")[0][0]) - loaded
        blocked, median, high, worst = (float(value) for value in query(url, LATENCY)[0])
        decided = total(processes, "interdict_scorer_decisions_total")
        say(
            f"{time.monotonic() - began:5.0f} s   payments {paid:7d}   decisions {decided:7.0f}   accounts blocked {blocked:4.0f}"
            f"   commit to block p50 {median:6.1f} ms  p99 {high:6.1f} ms  max {worst:6.1f} ms"
        )
        if (ended and decided >= paid) or time.monotonic() - began > seconds + 60:
            return paid, decided, int(blocked)
        time.sleep(1)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--interdict", default="target/release/interdict", help="the program")
    options.add_argument("--store", choices=["redis", "embedded"], default="redis", help="where features live")
    options.add_argument("--seconds", type=float, default=60, help="how long payments are made")
    options.add_argument("--rate", type=float, default=200, help="payments per second")
    given = options.parse_args()
    program = shutil.which(given.interdict) or sys.exit(f"{given.interdict} is missing: make stack builds it")
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    with servers.Servers() as running:
        url = running.postgres
        say(f"database  {url}")
        simulate = [program, "simulate", "--to", url, *POPULATION]
        subprocess.run([*simulate, "--create", "--days", str(HISTORY_DAYS)], check=True)
        loaded = int(query(url, "SELECT count(*) FROM transactions")[0][0])
        config = configure(running.folder, running, given.store, receiver.server_address[1])
        # A webhook secret as the receivers' libraries take it: whsec_ and base64.
        environment = os.environ | {"INTERDICT_STACK_SECRET": "whsec_c3RhY2stc2VjcmV0LXN0YWNrLXNlY3JldC1zdGFjaw=="}
        processes = [Process(program, config, role, environment) for role in ROLES[given.store]]
        try:
            wait_for("interdict run", lambda: all(process.is_ready() for process in processes), processes)
            snapshot = "interdict_ingest_postgres_rows_total"
            wait_for("the snapshot", lambda: total(processes, snapshot) >= loaded, processes)
            say(f"snapshot  {loaded} payments of {HISTORY_DAYS} days are history now")
            for process in processes:
                say(f"{process.role:8}  http://127.0.0.1:{process.port}/metrics")
            changes = int(given.seconds * given.rate)
            days = HISTORY_DAYS + 2 + int(changes / 3_000)
            live = [*simulate, "--from-day", str(HISTORY_DAYS), "--days", str(days), "--rate", str(given.rate)]
            load = subprocess.Popen(live, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stopper = threading.Timer(given.seconds, load.terminate)
            stopper.start()
            try:
                paid, decided, blocked = show(url, processes, loaded, given.seconds, load)
            finally:
                stopper.cancel()
                load.terminate()
        finally:
            for process in processes:
                process.run.terminate()
            codes = [process.run.wait(60) for process in processes]
        say("kinds     " + ", ".join(f"{kind}: {count}" for kind, count in query(url, KINDS)))
        say(
            f"summary   {paid} payments, {decided:.0f} decisions, {blocked} accounts blocked in the database,"
            f" {Receiver.taken} alerts received"
        )
        if any(codes) or decided < paid:
            sys.exit(f"interdict run ended with {codes}; {decided:.0f} of {paid} payments were decided")
        if not blocked and paid >= ENOUGH:
            sys.exit(f"no account was blocked, and {paid} payments have frauds among them")
        if not Receiver.taken and paid >= ENOUGH:
            sys.exit(f"no alert of drift came, and {paid} payments of another population than the model's show some")


KINDS = "SELECT kind, count(*) FROM interdict_ledger GROUP BY kind ORDER BY kind"

if __name__ == "__main__":
    main()
