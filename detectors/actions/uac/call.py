"""The compensating call: INVITE, wait until the phone rings, CANCEL, and say how it ended.

cancelled        the phone rang and the INVITE ended with 487 after our CANCEL: what is wanted
answered         the phone took the call first: acknowledged, and ended by BYE at once
rejected         the phone refused (486, 603 ...): it has seen the call, its screen is gone
refused          the proxy refused (403 wrong secret, 404 no such binding, 477 connection gone ...)
not_delivered    the proxy took the call but no phone rang
timeout          no reply at all, or no final reply after the CANCEL
transport_error  the proxy could not be reached
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from sipmessage import Response

from detectors.actions.uac.endpoint import Endpoint
from detectors.actions.uac.messages import Party, Script, to_tag
from detectors.actions.uac.transactions import InviteTransaction, Wiring
from pipeline.errors import ActionError

# Final replies that a proxy makes itself when no device has answered (477, 478: Kamailio, cannot send).
_FROM_PROXY = frozenset(
    {
        400,
        401,
        403,
        404,
        405,
        407,
        416,
        420,
        421,
        477,
        478,
        481,
        482,
        483,
        484,
        485,
        500,
        501,
        502,
        503,
        504,
        505,
        513,
    }
)


def judge(status: int, *, ringing: bool, cancelled: bool) -> tuple[str, str]:
    """(outcome, detail) for a final 3xx-6xx, after ringing (101-199) or without, after our CANCEL or not."""
    if status == 487 and cancelled:
        return ("cancelled", "the phone rang and was told") if ringing else ("not_delivered", "no phone rang")
    if ringing:
        return "rejected", f"the phone rang, then {status}"
    if status == 408:
        return "not_delivered", "the proxy waited in vain for the phone: 408"
    return (
        ("refused", f"by the proxy: {status}")
        if status in _FROM_PROXY
        else ("rejected", f"by the phone: {status}")
    )


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the call waits, in seconds."""

    ring_wait: float = 5.0  # for a phone to ring
    cancel_after: float = 0.0  # from ringing to the CANCEL


@dataclass(slots=True)
class CallReport:
    """How a call ended. `statuses`: replies to the INVITE with their times (microseconds, wall clock)."""

    outcome: str = ""
    detail: str = ""
    statuses: list[tuple[int, int]] = field(default_factory=list)
    invite_sent_us: int | None = None
    cancel_sent_us: int | None = None


class CompensatingCall:
    """One call, from INVITE to its end. Use once: `report = await CompensatingCall(...).run()`."""

    def __init__(
        self, endpoint: Endpoint, script: Script, patience: Patience, now_us: Callable[[], int]
    ) -> None:
        self.report = CallReport()
        self._endpoint = endpoint
        self._script = script
        self._patience = patience
        self._now_us = now_us
        self._party: Party
        self._invite: InviteTransaction
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._timers: list[asyncio.TimerHandle] = []
        self._provisional = False
        self._ringing = False
        self._cancel_due = False
        self._cancel_status: int | None = None
        self._acks: dict[str, bytes] = {}  # of 2xx, by To tag

    async def run(self) -> CallReport:
        """Place the call and wait for its end.

        When cancelled it leaves nothing ringing: the CANCEL still goes out, as soon as it may, and a
        final reply is still acknowledged, while the endpoint lives.
        """
        try:
            await self._endpoint.link.open()
        except ActionError as error:
            self._conclude("transport_error", str(error))
            return self.report
        self._party = self._endpoint.link.party
        wiring = Wiring(
            send=self._endpoint.link.send,
            on_reply=self._on_invite_reply,
            on_failure=self._on_invite_failure,
            make_ack=lambda reply: bytes(self._script.ack_refusal(self._party, reply)),
        )
        self._invite = self._endpoint.invite(self._script.invite(self._party), self._script.branch, wiring)
        self.report.invite_sent_us = self._now_us()
        self._after(self._patience.ring_wait, self._make_cancel_due)
        try:
            await self._done
        except asyncio.CancelledError:
            self._make_cancel_due()
            raise
        return self.report

    def _on_invite_reply(self, reply: Response) -> None:
        self.report.statuses.append((reply.code, self._now_us()))
        if reply.code >= 300:
            self._refused(reply.code)
        elif reply.code >= 200:
            self._answered(reply)
        else:
            self._provisional = True
            if reply.code > 100 and not self._ringing:
                self._ringing = True
                self._after(self._patience.cancel_after, self._make_cancel_due)
            if self._cancel_due:
                self._cancel()

    def _make_cancel_due(self) -> None:
        self._cancel_due = True
        if self._provisional:  # not before: RFC 3261 section 9.1
            self._cancel()

    def _cancel(self) -> None:
        if self.report.cancel_sent_us is not None or self._final_seen:
            return
        wiring = Wiring(self._endpoint.link.send, self._on_cancel_reply, self._on_cancel_failure)
        self._endpoint.request(self._script.cancel(self._party), self._script.branch, wiring)
        self.report.cancel_sent_us = self._now_us()
        self._after(self._endpoint.timers.give_up, self._give_up)  # RFC 3261 section 9.1

    def _on_cancel_reply(self, reply: Response) -> None:
        self._cancel_status = reply.code

    def _on_cancel_failure(self, why: str) -> None:
        if why != "timeout" and not self._final_seen:
            self._conclude("transport_error", f"CANCEL could not be sent: {why}")

    def _give_up(self) -> None:
        self._invite.linger()
        answer = f"CANCEL was answered {self._cancel_status}" if self._cancel_status else "CANCEL unanswered"
        outcome = "timeout" if self._ringing else "not_delivered"
        self._conclude(outcome, f"no final reply to the INVITE; {answer}")

    def _on_invite_failure(self, why: str) -> None:
        if why == "timeout":
            self._conclude("timeout", "the proxy never replied")
        else:
            self._conclude("transport_error", why)

    def _refused(self, status: int) -> None:
        self._conclude(
            *judge(status, ringing=self._ringing, cancelled=self.report.cancel_sent_us is not None)
        )

    def _answered(self, reply: Response) -> None:
        """Acknowledge every 2xx, repeated ones too (RFC 3261 section 13.2.2.4); BYE once for each To tag."""
        tag = to_tag(reply)
        first = tag not in self._acks
        if first:
            self._acks[tag] = bytes(self._script.ack_answer(self._party, reply))
        self._endpoint.link.send(self._acks[tag])
        if first:
            request = self._script.bye(self._party, reply)
            branch = request.via[0].parameters["branch"] or ""
            wiring = Wiring(self._endpoint.link.send, self._on_bye_reply, self._on_bye_failure)
            self._endpoint.request(request, branch, wiring)

    def _on_bye_reply(self, reply: Response) -> None:
        if reply.code >= 200:
            self._conclude("answered", f"the phone took the call; BYE was answered {reply.code}")

    def _on_bye_failure(self, why: str) -> None:
        self._conclude("answered", f"the phone took the call; BYE failed: {why}")

    @property
    def _final_seen(self) -> bool:
        return bool(self.report.statuses) and self.report.statuses[-1][0] >= 200

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        if seconds <= 0:
            call()
        else:
            self._timers.append(self._loop.call_later(seconds, call))

    def _conclude(self, outcome: str, detail: str) -> None:
        if self.report.outcome:
            return
        self.report.outcome, self.report.detail = outcome, detail
        for timer in self._timers:
            timer.cancel()
        if not self._done.done():
            self._done.set_result(None)
