"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from app_store import app_on_the_store, filled_app_store  # noqa: F401 - fixtures
from databases import MariaDB, PostgreSQL
from world.kamailio import Certificate, Kamailio
from world.parties import Parties
from world.programs import MissingProgram

StartKamailio = Callable[..., Kamailio]
LONGEST = (
    *(
        "test_crash",
        "test_demo",
        "test_cdr_service",
        "test_service",
        "test_app_browser",
        "test_doctor_kamailio",
    ),
    *(
        "test_import",
        "test_store_spool",
        "test_live",
        "test_quality_reports",
        "test_overload",
        "test_attacks",
    ),
    *("test_deploy", "test_doctor_taps", "test_hostile", "test_doctor_recordings", "test_upkeep_crash"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest, by waiting above all, begin first: at the end of a run nobody waits for one of them."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A self-made certificate for 127.0.0.1 and sip.test."""
    folder = tmp_path_factory.mktemp("certificate")
    made = trustme.CA().issue_cert("sip.test", "127.0.0.1")
    pem = Certificate(folder / "certificate.pem", folder / "key.pem")
    made.cert_chain_pems[0].write_to_path(pem.certificate)
    made.private_key_pem.write_to_path(pem.key)
    return pem


@pytest.fixture(scope="module")
def start_kamailio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartKamailio]:
    """Starts a Kamailio of our own (arguments as `Kamailio` takes them); it ends with the test module."""
    with ExitStack() as stack:

        def start(**how: Any) -> Kamailio:
            run_dir = tmp_path_factory.mktemp("kamailio")
            try:
                return stack.enter_context(Kamailio(run_dir, **how))
            except MissingProgram as missing:
                pytest.fail(str(missing), pytrace=False)

        yield start


@pytest.fixture
def meet(tmp_path: Path) -> Iterator[Callable[[Kamailio], Parties]]:
    """Gives the phones and callers of a Kamailio; they leave at the end of the test."""
    with ExitStack() as stack:

        def parties_of(kamailio: Kamailio) -> Parties:
            print(f"Kamailio's log: {kamailio.log_file}; sipp's files: {tmp_path}")
            parties = Parties(kamailio, tmp_path)
            stack.callback(parties.close)
            return parties

        yield parties_of


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB of our own."""
    try:
        database = MariaDB()
    except MissingProgram as missing:
        pytest.fail(str(missing), pytrace=False)
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL of our own."""
    try:
        database = PostgreSQL()
    except MissingProgram as missing:
        pytest.fail(str(missing), pytrace=False)
    yield database
    database.close()
