"""A private MariaDB and a private PostgreSQL, from Debian's packages: on loopback, in folders of their own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from world.ports import free_port
from world.programs import MissingProgram, stop

READER, PASSWORD = "reader", "right"
DATABASE = "asterisk"
PATIENCE_S = 60.0


def _find(program: str, package: str) -> str:
    folders = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    path = shutil.which(program) or shutil.which(program, path=os.pathsep.join(["/usr/sbin", *folders]))
    if path is None:
        raise MissingProgram(f"{program} is missing: apt-get install {package}")
    return path


class Database:
    """A server that can be stopped and started again; `sql` speaks to it as its owner.

    `url(table)` is what `hepduck cdr import` takes, for an account that may only read.
    """

    scheme: str
    _stop_signal = signal.SIGTERM

    def __init__(self) -> None:
        # Not below pytest's own folder: PostgreSQL will not run as root, and others cannot enter there.
        self.folder = Path(tempfile.mkdtemp(prefix=f"hepduck-{self.scheme}-"))
        self.folder.chmod(0o755)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._make()
            self.start()
            self._prepare()
        except BaseException:
            self.close()
            raise

    def url(self, table: str, password: str = PASSWORD) -> str:
        return f"{self.scheme}://{READER}:{password}@127.0.0.1:{self.port}/{DATABASE}?table={table}"

    def sql(self, text: str, database: str = DATABASE) -> str:
        """What the server's own client prints for `text`: one line a row, tabs between columns."""
        done = subprocess.run(
            self._client(database),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        if done.returncode:
            raise RuntimeError(f"{text[:200]}: {done.stderr}")
        return done.stdout

    def load(self, dump: Path, table: str, as_table: str) -> None:
        """Loads a dump of `table` under another name."""
        text = dump.read_text()
        for quote in ("`", "public.", "'"):
            close = quote.removesuffix("public.")
            text = text.replace(f"{quote}{table}{close}", f"{quote}{as_table}{close}")
        self.sql(text)

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = self._run(self._server(), log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "server.log").read_text()[-3000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """Stops the server; its data stay."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
            stop_patiently(self._process)
        self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) != 0:
                return False
        return not subprocess.run(
            self._client(None), input="SELECT 1;", capture_output=True, text=True, check=False
        ).returncode

    def _run(self, argv: list[str], log: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder)  # type: ignore[call-overload, no-any-return]

    def _make(self) -> None:
        raise NotImplementedError

    def _prepare(self) -> None:
        raise NotImplementedError

    def _server(self) -> list[str]:
        raise NotImplementedError

    def _client(self, database: str | None) -> list[str]:
        raise NotImplementedError


def stop_patiently(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        stop(process)


class MariaDB(Database):
    """MariaDB with Debian's defaults, but for size: strict mode, `NO_ZERO_DATE` off."""

    scheme = "mysql"

    def _make(self) -> None:
        argv = [
            *(_find("mariadb-install-db", "mariadb-server"), "--no-defaults", "--skip-test-db"),
            *("--auth-root-authentication-method=normal", f"--datadir={self.folder / 'data'}"),
            f"--user={getpass.getuser()}",
        ]
        subprocess.run(argv, check=True, capture_output=True, cwd=self.folder)

    def _server(self) -> list[str]:
        return [
            *(_find("mariadbd", "mariadb-server"), "--no-defaults", f"--datadir={self.folder / 'data'}"),
            *(f"--user={getpass.getuser()}", "--bind-address=127.0.0.1", f"--port={self.port}"),
            *(f"--socket={self.folder / 's'}", f"--pid-file={self.folder / 'pid'}", "--skip-name-resolve"),
            *("--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0"),
        ]

    def _client(self, database: str | None) -> list[str]:
        client = _find("mariadb", "mariadb-client")
        options = ["--no-defaults", f"--socket={self.folder / 's'}", "--user=root", "--batch", "-N"]
        return [client, *options, *([database] if database else [])]

    def _prepare(self) -> None:
        self.sql(
            f"CREATE DATABASE {DATABASE}; CREATE USER {READER}@127.0.0.1 IDENTIFIED BY '{PASSWORD}';"
            f"GRANT SELECT ON {DATABASE}.* TO {READER}@127.0.0.1;",
            "mysql",
        )


class PostgreSQL(Database):
    """PostgreSQL with passwords on TCP."""

    scheme = "postgresql"
    _stop_signal = signal.SIGINT  # does not wait for clients

    def _make(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        argv = [
            *(_find("initdb", "postgresql"), "-D", str(self.folder / "data"), "-U", "postgres", "--no-sync"),
            *("--auth-local=trust", "--auth-host=scram-sha-256", "-E", "UTF8", "--locale=C"),
        ]
        with (self.folder / "server.log").open("ab") as log:
            if self._run(argv, log).wait(PATIENCE_S):
                raise RuntimeError((self.folder / "server.log").read_text())

    def _server(self) -> list[str]:
        return [
            *(_find("postgres", "postgresql"), "-D", str(self.folder / "data"), "-p", str(self.port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}"),
            *("-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=20"),
        ]

    def _client(self, database: str | None) -> list[str]:
        options = ["-qAtX", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", str(self.folder)]
        return [_find("psql", "postgresql-client"), *options, "-p", str(self.port), database or "postgres"]

    def _run(self, argv: list[str], log: object) -> subprocess.Popen[bytes]:
        if os.geteuid() != 0:
            return super()._run(argv, log)
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            user="postgres",
            group="postgres",
        )

    def _prepare(self) -> None:
        self.sql(f"CREATE ROLE bed; CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'", "postgres")
        self.sql(f"CREATE DATABASE {DATABASE}", "postgres")
        self.sql(
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {READER};"
            f"GRANT USAGE ON SCHEMA public TO {READER}"
        )
