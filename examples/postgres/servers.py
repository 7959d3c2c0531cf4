"""Private PostgreSQL and Redis on free ports in a temporary folder, from the programs that Debian's packages install.

    python3 examples/postgres/servers.py -- COMMAND ...

runs COMMAND with INTERDICT_POSTGRES and INTERDICT_REDIS set to their addresses, then ends them and removes the folder.
"""

import contextlib
import glob
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time

SETTINGS = """
listen_addresses = '127.0.0.1'
wal_level = logical
max_replication_slots = 20
max_wal_senders = 20
max_connections = 300
track_commit_timestamp = on
shared_buffers = 256MB
max_wal_size = 4GB
"""


def found(program, *folders):
    """The path of a server's program, or an end that says what to install."""
    for folder in folders:
        for path in sorted(glob.glob(f"{folder}/{program}"), reverse=True):
            return path
    path = shutil.which(program)
    if path is None:
        sys.exit(f"{program} is missing: apt-get install postgresql redis-server")
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def reachable(port, process, log, seconds=60):
    """Waits until something listens on `port`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"a server did not start:\n{pathlib.Path(log).read_text()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    sys.exit(f"a server is not reachable after {seconds} s:\n{pathlib.Path(log).read_text()}")


def postgres_user():
    """PostgreSQL refuses to run as root: the account it runs under instead."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        sys.exit("PostgreSQL does not run as root and there is no account 'postgres': apt-get install postgresql")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


class Servers:
    """Both servers, until the `with` block ends."""

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="interdict-"))
        self.folder.chmod(0o755)
        self.running = []
        try:
            self.postgres = self.start_postgres()
            self.redis = self.start_redis()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start_postgres(self):
        account = postgres_user()
        home = self.folder / "postgres"
        home.mkdir(mode=0o700)
        if account:
            os.chown(home, account["user"], account["group"])
        folders = ["/usr/lib/postgresql/*/bin"]
        data, log, port = home / "data", self.folder / "postgres.log", free_port()
        make = [found("initdb", *folders), "-D", data, "-U", "interdict", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=home, **account)
        with (data / "postgresql.conf").open("a") as settings:
            settings.write(f"{SETTINGS}port = {port}\nunix_socket_directories = '{home}'\n")
        server = self.start([found("postgres", *folders), "-D", data], log, cwd=home, **account)
        reachable(port, server, log)
        url = f"postgres://interdict@127.0.0.1:{port}"
        create = [found("createdb", *folders), "-h", "127.0.0.1", "-p", str(port), "-U", "interdict", "bank"]
        end = time.monotonic() + 60
        while subprocess.run(create, check=False, stderr=subprocess.PIPE).returncode != 0:
            if time.monotonic() > end:
                sys.exit(f"the database could not be made:\n{log.read_text()}")
            time.sleep(0.1)
        return f"{url}/bank"

    def start_redis(self):
        home, log, port = self.folder / "redis", self.folder / "redis.log", free_port()
        home.mkdir()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", home, "--save", "", "--appendonly", "yes"]
        server = self.start([found("redis-server"), *options], log)
        reachable(port, server, log)
        return f"redis://127.0.0.1:{port}"

    def start(self, command, log, **options):
        with open(log, "wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, **options)
        self.running.append(server)
        return server

    def __exit__(self, *_error):
        for server in self.running:
            # SIGINT: PostgreSQL's fast shutdown; Redis writes what it has.
            server.send_signal(2)
        for server in self.running:
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    if len(sys.argv) < 3 or sys.argv[1] != "--":
        sys.exit(__doc__)
    with Servers() as servers:
        environment = os.environ | {"INTERDICT_POSTGRES": servers.postgres, "INTERDICT_REDIS": servers.redis}
        try:
            code = subprocess.run(sys.argv[2:], env=environment, check=False).returncode
        except FileNotFoundError as error:
            code = str(error)
        except KeyboardInterrupt:
            code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
