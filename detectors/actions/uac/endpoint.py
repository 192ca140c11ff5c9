"""Where calls and link meet: replies find their transaction, requests of others get a short answer."""

from __future__ import annotations

import dataclasses

from sipmessage import Request, Response

from detectors.actions.uac.links import Link
from detectors.actions.uac.messages import branch_and_method, parse, refuse
from detectors.actions.uac.transactions import (
    ClientTransaction,
    InviteTransaction,
    NonInviteTransaction,
    Timers,
    Wiring,
)

# A device may end the dialog first, or probe us; for anything else we have no dialog.
_ANSWERS = {"BYE": (200, "OK"), "OPTIONS": (200, "OK")}
_NO_DIALOG = (481, "Call/Transaction Does Not Exist")


class Endpoint:
    """All transactions over one link. Lives on one event loop; nothing here blocks or raises upwards."""

    def __init__(self, link: Link, timers: Timers) -> None:
        self.link = link
        self.timers = timers
        self.unmatched_count = 0
        self._transactions: dict[tuple[str, str], ClientTransaction] = {}
        link.on_message = self._received
        link.on_lost = self._link_lost

    @property
    def open_transactions(self) -> int:
        return len(self._transactions)

    def invite(self, request: Request, branch: str, wiring: Wiring) -> InviteTransaction:
        transaction = InviteTransaction(
            bytes(request), self._wired(wiring, branch, "INVITE"), self.timers, reliable=self.link.reliable
        )
        self._begin(transaction, branch, "INVITE")
        return transaction

    def request(self, request: Request, branch: str, wiring: Wiring) -> NonInviteTransaction:
        transaction = NonInviteTransaction(
            bytes(request),
            self._wired(wiring, branch, request.method),
            self.timers,
            reliable=self.link.reliable,
        )
        self._begin(transaction, branch, request.method)
        return transaction

    async def close(self) -> None:
        for transaction in list(self._transactions.values()):
            transaction.terminate()
        await self.link.close()

    def _wired(self, wiring: Wiring, branch: str, method: str) -> Wiring:
        def forget() -> None:
            self._transactions.pop((branch, method), None)
            wiring.on_terminated()

        return dataclasses.replace(wiring, on_terminated=forget)

    def _begin(self, transaction: ClientTransaction, branch: str, method: str) -> None:
        self._transactions[branch, method] = transaction
        transaction.start()

    def _received(self, data: bytes) -> None:
        try:
            message = parse(data)
        except ValueError:
            self.unmatched_count += 1
            return
        if isinstance(message, Response):
            key = branch_and_method(message)
            transaction = self._transactions.get(key) if key else None
            if transaction is not None and message.headers.get("To") is not None:
                transaction.receive(message)
            else:
                self.unmatched_count += 1
        elif message.method != "ACK":
            status, phrase = _ANSWERS.get(message.method, _NO_DIALOG)
            self.link.send(bytes(refuse(message, status, phrase)))

    def _link_lost(self, why: str) -> None:
        for transaction in list(self._transactions.values()):
            transaction.link_lost(why)
