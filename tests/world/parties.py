"""Everybody who talks to one Kamailio in one test, gone when the test is."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Protocol, TypeVar

from world.endpoint import Transport
from world.kamailio import Kamailio
from world.late_caller import LateCaller
from world.phone import Phone
from world.sip import new_call_id
from world.sipp import Sipp


class _Ends(Protocol):
    def close(self) -> None: ...


P = TypeVar("P", bound=_Ends)


class Parties:
    """Makes phones and callers of `kamailio`. Any user name is an account: user X has the password pw-X."""

    def __init__(self, kamailio: Kamailio, run_dir: Path) -> None:
        self.kamailio = kamailio
        self._run_dir = run_dir
        self._ends: list[_Ends] = []
        self._numbers = itertools.count(1)

    def phone(
        self,
        user: str,
        transport: Transport = "udp",
        *,
        address: str = "127.0.0.21",
        proxy: tuple[str, int] | None = None,
        **how: Any,
    ) -> Phone:
        """A phone that is connected but not registered; `how` as in `Phone`."""
        proxy = proxy or self.kamailio.proxy(transport, "::1" if ":" in address else None)
        return self._keep(Phone(user, proxy, address, transport, **how))

    def registered(self, user: str, transport: Transport = "udp", **how: Any) -> Phone:
        """A phone that has registered."""
        phone = self.phone(user, transport, **how)
        assert phone.register() == "200"
        return phone

    def late_caller(self, user: str, *, call_id: str | None = None, address: str = "127.0.0.1") -> LateCaller:
        """A bare compensating caller towards `user`."""
        proxy = self.kamailio.proxy(address="::1" if ":" in address else None)
        return self._keep(LateCaller(proxy, call_id or new_call_id(), user, address))

    def sipp(self, scenario: str, *, user: str, transport: Transport = "udp", **how: Any) -> Sipp:
        """A running sipp; `how` as in `Sipp`."""
        run_dir = self._run_dir / f"{next(self._numbers)}-{scenario}"
        return self._keep(
            Sipp(run_dir, self.kamailio.proxy(transport), scenario, user=user, transport=transport, **how)
        )

    def given_up_call(self, callee: str, *, wait_ms: int = 100, user: str = "alice", **how: Any) -> str:
        """A whole call that its caller gives up after `wait_ms`. Its Call-ID."""
        sipp = self.sipp("uac_cancel", user=user, callee=callee, wait_ms=wait_ms, **how)
        assert sipp.wait() == 0, sipp.explain()
        return sipp.call_id

    def close(self) -> None:
        for party in reversed(self._ends):
            party.close()

    def _keep(self, party: P) -> P:
        self._ends.append(party)
        return party
