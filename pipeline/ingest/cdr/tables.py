"""A CDR table in MariaDB, MySQL or PostgreSQL, through SQLAlchemy with pymysql or psycopg.

Why not DuckDB's own mysql and postgres extensions (1.5.5, tried on the same servers and tables): of one
date like `2026-00-10` (MySQL takes it, with a lax `sql_mode`) the mysql extension makes a "Conversion Error"
that ends the whole scan, so that one row hides all others; a column name with a backtick it quotes wrongly;
both weigh 40 MB each and run inside the tap's own DuckDB. The drivers give such a date as text, and it costs
one row. What both survive: zero dates, `NOT NULL default 0`, the column `end`, decimals, wrong passwords.

Rows are written when calls end, long after they start. So each poll asks for rows that start after the
newest start seen, less an overlap; more seldom a sweep looks back further, for the longest calls. Both are
ranges of one column, which wants an index; the whole table is read once, at first.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pipeline.ingest.cdr import CdrError, Chunk, Position, Raw
from pipeline.ingest.cdr.settings import CdrSourceSettings
from pipeline.ingest.cdr.values import moment

if TYPE_CHECKING:
    import sqlalchemy as sa

CHUNK_ROWS = 5000
_CONNECT_TIMEOUT_S = 5
_FUTURE = timedelta(hours=26)  # a start later than that, whatever its zone, does not move the window


class CdrTable:
    """Reads the table of `settings`; a connection for each poll, so that a restart of the server costs one."""

    def __init__(self, settings: CdrSourceSettings) -> None:
        self._settings = settings
        self._time = settings.column_map.theirs(settings.shape.time)
        self._engine: sa.Engine | None = None
        self._swept_s: float | None = None

    def chunks(self, position: Position | None) -> Generator[Chunk]:
        """The rows of the window, in the order of their start; all rows where there is no position."""
        newest = datetime.fromisoformat(position["start"]) if position else None
        now_s = time.monotonic()
        sweep_s = self._settings.sweep_interval.total_seconds()
        sweeps = self._swept_s is None or now_s - self._swept_s >= sweep_s
        since = newest and newest - (self._settings.sweep_overlap if sweeps else self._settings.overlap)
        with (
            self._speaking() as connection,
            closing(connection.execute(self._select(since, unknown_too=sweeps))) as result,
        ):
            names = list(result.keys())
            at = [name.lower() for name in names].index(self._time.lower())
            for rows in result.partitions(CHUNK_ROWS):
                chunk = Chunk()
                for row in rows:
                    values = dict(zip(names, row, strict=True))
                    chunk.rows.append(Raw(values, f"{self._time} {row[at]}"))
                    newest = _later(newest, row[at])
                chunk.position = {"start": newest.isoformat(" ")} if newest else None
                yield chunk
        if sweeps:
            self._swept_s = now_s

    def any_row(self) -> Raw | None:
        """One row with a start, whichever comes first; None where there is none yet."""
        import sqlalchemy as sa  # noqa: PLC0415

        start: sa.ColumnClause[Any] = sa.column(sa.quoted_name(self._time, quote=True))
        one = self._select(None, unknown_too=False).where(start.is_not(None)).order_by(None).limit(1)
        with self._speaking() as connection, closing(connection.execute(one)) as result:
            row = result.fetchone()
            return None if row is None else Raw(dict(zip(result.keys(), row, strict=True)), "a row")

    def _select(self, since: datetime | None, *, unknown_too: bool) -> sa.Select[Any]:
        import sqlalchemy as sa  # noqa: PLC0415  costs 0.3 s, and only those who read tables need it

        schema, _, name = self._settings.table.rpartition(".")
        table = sa.table(
            sa.quoted_name(name, quote=True),
            schema=sa.quoted_name(schema, quote=True) if schema else None,
        )
        start: sa.ColumnClause[Any] = sa.column(sa.quoted_name(self._time, quote=True))
        select = sa.select(sa.text("*")).select_from(table)
        if since is not None:
            # As text without a type, which each server reads as its column's own: DATETIME, TIMESTAMP with
            # or without time zone. What stands in the table is compared as it stands.
            window = start >= sa.bindparam("since", since.isoformat(" "), type_=sa.types.NullType())
            # In MySQL a NOT NULL date that is zero IS NULL too.
            select = select.where(sa.or_(window, start.is_(None)) if unknown_too else window)
        return select.order_by(start)

    @contextmanager
    def _speaking(self) -> Iterator[sa.Connection]:
        """A connection for one poll; whatever goes wrong becomes one CdrError in one line."""
        import sqlalchemy as sa  # noqa: PLC0415

        try:
            if self._engine is None:
                self._engine = _engine(self._settings)
            with self._engine.connect() as connection:
                yield connection.execution_options(stream_results=True)
        except (sa.exc.DBAPIError, OSError) as error:
            reason = getattr(error, "orig", None) or error
            words = reason.args[-1] if reason.args else reason
            line = next(iter(str(words).strip().splitlines()), type(reason).__name__)
            raise CdrError(f"{self._settings.shown}: {line}") from error
        except sa.exc.SQLAlchemyError as error:
            raise CdrError(f"{self._settings.shown}: {str(error).splitlines()[0]}") from error


def _engine(settings: CdrSourceSettings) -> sa.Engine:
    import sqlalchemy as sa  # noqa: PLC0415

    url = sa.make_url(settings.url)
    if settings.password is not None:
        url = url.set(password=settings.password.get_secret_value())
    timeout_s = max(1, round(settings.timeout.total_seconds()))
    options: dict[str, Any]
    if settings.source.startswith(("mysql", "mariadb")):
        url = url.set(drivername="mysql+pymysql")
        options = {"read_timeout": timeout_s, "write_timeout": timeout_s, "charset": "utf8mb4"}
    else:
        url = url.set(drivername="postgresql+psycopg")
        options = {
            "options": f"-c statement_timeout={timeout_s * 1000} -c datestyle=ISO",
            "tcp_user_timeout": timeout_s * 1000,
        }
    options["connect_timeout"] = _CONNECT_TIMEOUT_S
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args=options)
    if engine.dialect.name == "postgresql":
        sa.event.listen(engine, "connect", _times_as_text)
    return engine


def _times_as_text(connection: Any, _record: object) -> None:
    """A time that Python cannot hold ('infinity') must cost its row, not the whole poll."""
    from psycopg.types.string import TextLoader  # noqa: PLC0415

    for name in ("timestamp", "timestamptz", "date"):
        connection.adapters.register_loader(name, TextLoader)


def _later(newest: datetime | None, value: Any) -> datetime | None:
    """The later one; nonsense and times to come do not count."""
    try:
        found = moment(value)
    except (ValueError, ArithmeticError):
        return newest
    if found is None or found > datetime.now(found.tzinfo or UTC).replace(tzinfo=found.tzinfo) + _FUTURE:
        return newest
    if newest is None or (found.tzinfo is None) != (newest.tzinfo is None):
        return found
    return max(newest, found)
