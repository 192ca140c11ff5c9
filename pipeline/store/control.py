"""Orders to the running tap about its store, on a Unix socket in the store's folder that only its owner can open.

There is one writer: who wants something of a store that a tap holds has to ask the tap. One order at a time, one line
of JSON there and one line back.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import structlog

from pipeline.errors import StoreError
from pipeline.store.paths import StorePaths

Order = Callable[..., Any]

_MOST_BYTES = 65_536
_HEARD_S = 5.0  # an order is one line, at once

_log = structlog.get_logger(__name__)


class Control:
    """Takes orders for the store at `paths`: name -> function, called with the arguments that came."""

    def __init__(self, paths: StorePaths, orders: Mapping[str, Order]) -> None:
        """Listen. Raises StoreError when the socket cannot be made."""
        self._paths = paths
        self._orders = orders
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            paths.control.unlink(missing_ok=True)  # what a crash left; we hold the store
            with _short(paths.control) as address:
                self._socket.bind(address)
            paths.control.chmod(0o600)  # nobody can connect before `listen`
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise StoreError(f"cannot take orders at {paths.control}: {error}") from error
        self._thread = threading.Thread(target=self._run, name="store-control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more orders; one that is being carried out goes on as long as the writer lets it."""
        self._paths.control.unlink(missing_ok=True)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:  # stopped
                return
            with client, suppress(OSError):
                client.settimeout(_HEARD_S)
                client.sendall(json.dumps(self._answer(client)).encode() + b"\n")

    def _answer(self, client: socket.socket) -> dict[str, Any]:
        try:
            order = json.loads(_line(client))
            carry_out = self._orders[order["order"]]
            arguments = dict(order["arguments"])
        except (OSError, ValueError, KeyError, TypeError):
            return {"error": "no order that this tap knows: is it of the same version?"}
        client.settimeout(None)
        try:
            return {"result": carry_out(**arguments)}
        except (StoreError, duckdb.Error, OSError) as error:
            return {"error": str(error).partition("\n")[0]}
        except Exception as error:  # noqa: BLE001  a bug of ours must not end the thread
            _log.exception("an order failed", order=order["order"])
            return {"error": repr(error)}


def is_served(paths: StorePaths) -> bool:
    """True while a tap takes orders."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, _short(paths.control) as address:
        return probe.connect_ex(address) == 0


def ask(paths: StorePaths, order: str, **arguments: Any) -> Any:
    """Have the running tap carry out an order, however long it takes; its result.

    Raises StoreError: in the words of what failed, or when the tap ends meanwhile.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        try:
            with _short(paths.control) as address:
                server.connect(address)
            server.sendall(json.dumps({"order": order, "arguments": arguments}).encode() + b"\n")
            answer = json.loads(_line(server))
        except (OSError, ValueError) as error:
            raise StoreError(f"the tap ended before {order!r} was done: try again") from error
    if "error" in answer:
        raise StoreError(answer["error"])
    return answer["result"]


def _line(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\n") and len(received) < _MOST_BYTES:
        part = connection.recv(4096)
        if not part:
            break
        received += part
    return received


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """The path of a socket in at most 107 bytes, as the kernel wants it, however deep the store lies."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
