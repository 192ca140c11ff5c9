"""The compensating call by our own SIP UAC: the phone gets the INVITE it waits for, and its CANCEL.

The call goes through the operator's proxy, which alone can reach the phone's connection and which admits
it by our source address and a secret header (`deploy/kamailio`). It carries the lost call's Call-ID, so
that the phone knows it for the call that the push announced, and a From tag by which the mirror's
copies are recognised as our own.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from detectors.actions.uac import headers
from detectors.actions.uac.call import CompensatingCall, Patience
from detectors.actions.uac.endpoint import Endpoint
from detectors.actions.uac.links import ProxyAddress, connected_udp_socket, make_link, party_of
from detectors.actions.uac.messages import Script
from detectors.actions.uac.settings import FAMILY, MASK, CallSettings, read_secret, script_for
from detectors.actions.uac.transactions import Timers
from pipeline.durations import Duration
from pipeline.engine.actions import Action, ActionResult, Attempt
from pipeline.engine.commands import Finding
from pipeline.instants import now_us


class FakeCallSettings(CallSettings):
    """`[actions.fake_call]`"""

    sdp: Literal["audio", "none"] = Field("audio", description="the INVITE's offer")
    cancel_after: Duration = Field(timedelta(0), description="from the phone's ringing to the CANCEL")
    t1: Duration = Field(timedelta(milliseconds=500), description="RFC 3261 timer T1; 64 T1 is the patience")
    t2: Duration = Field(timedelta(seconds=4), description="RFC 3261 timer T2")
    t4: Duration = Field(timedelta(seconds=5), description="RFC 3261 timer T4")
    timer_d: Duration = Field(timedelta(seconds=32), description="RFC 3261 timer D")
    # The worst call: no reply until timer B, then none to the CANCEL until timer F.
    time_limit: Duration = Field(timedelta(seconds=75), description="longest time for one attempt")


class FakeCall(Action):
    """INVITE with the lost call's Call-ID, wait for ringing, CANCEL. Outcomes: see `uac.call`."""

    name = "fake_call"
    Settings = FakeCallSettings
    family = FAMILY
    needs_target = True

    def __init__(self, settings: FakeCallSettings) -> None:
        super().__init__(settings)
        self.settings: FakeCallSettings = settings
        self._secret = read_secret(settings)
        self._proxy = ProxyAddress.parse(settings.proxy)
        self._local = headers.local_address(settings.local) if settings.local is not None else None
        self._patience = Patience(settings.ring_wait.total_seconds(), settings.cancel_after.total_seconds())
        self._timers = Timers(
            t1=settings.t1.total_seconds(),
            t2=settings.t2.total_seconds(),
            t4=settings.t4.total_seconds(),
            d=settings.timer_d.total_seconds(),
        )
        self._endpoint: Endpoint | None = None

    async def start(self) -> None:
        await self._ready().link.open()

    async def stop(self) -> None:
        if self._endpoint is not None:
            await self._endpoint.close()
            self._endpoint = None

    async def plan(self, finding: Finding) -> str:
        """The INVITE and the CANCEL as they would go out, the secret masked. Sends nothing."""
        script = self._script(finding, None if self._secret is None else MASK)
        with await connected_udp_socket(
            self._proxy, None if self._local is None else (self._local[0], 0)
        ) as sock:
            party = party_of(sock, self._proxy.transport)
        invite, cancel = bytes(script.invite(party)), bytes(script.cancel(party))
        return f"to {self._proxy}:\n{invite.decode()}\nand as soon as the phone rings:\n{cancel.decode()}"

    async def act(self, finding: Finding, _attempt: Attempt) -> ActionResult:
        script = self._script(finding, self._secret)
        call = CompensatingCall(self._ready(), script, self._patience, now_us=now_us)
        report = await call.run()
        return ActionResult(report.outcome, report.detail, tuple(report.statuses), report.invite_sent_us)

    def _script(self, finding: Finding, secret: str | None) -> Script:
        return script_for(finding, self.settings, secret, offer_sdp=self.settings.sdp == "audio")

    def _ready(self) -> Endpoint:
        if self._endpoint is None:
            self._endpoint = Endpoint(make_link(self._proxy, self._local), self._timers)
        return self._endpoint
