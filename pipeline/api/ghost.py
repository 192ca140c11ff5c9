"""Why did this phone ring with a ghost call? One call's story from the mirror: verdict, timeline, hypotheses.

The mirror shows SIP only: neither the push nor the phone's call screen is on it. All that is said of those is inferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.agents_seen import agent_name
from pipeline.api.calls import call as view_call
from pipeline.api.opened import Store, current
from pipeline.callview import CallView
from pipeline.engine.actions import OWN_TAG_PREFIX
from pipeline.ladder import message_label
from pipeline.store import queries

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
_ELSEWHERE = "Call completed elsewhere"  # RFC 3326 2: what a CANCEL after an answer on another device says


def ghost_story(call_id: str, *, store: Store | None = None) -> GhostStory:
    """The story of one call, found out about or not. Raises StoreError when there is no such call."""
    asked = current(store)
    return GhostStory(view_call(call_id, store=asked), queries.agents(asked.reader))


@dataclass(frozen=True)
class GhostStory:
    """One call with all that is known of it (`call`), and the capture agents of its store."""

    call: CallView
    agents: list[Row]

    @cached_property
    def finding(self) -> Row | None:
        """The first finding of kind `late_register`, or None."""
        return next((found for found in self.call.findings if found["kind"] == "late_register"), None)

    @property
    def verdict(self) -> str:
        """The answer in a sentence."""
        found = self.finding
        if found is None:
            rang = [f"{row['dst_ip']}:{row['dst_port']}" for row in self._sent_on() if self._answers(row)]
            if rang:
                return f"No: the INVITE reached {', '.join(dict.fromkeys(rang))}, which was told of the end as well."
            return "No: no phone registered too late for this call, as far as the mirror shows."
        evidence = found["evidence"]
        began, ended, came = (evidence[name] for name in ("invite_us", "outcome_us", "register_us"))
        if came < ended:
            how = f"{(ended - came) / 1000:.0f} ms before, but no INVITE reached it"
        else:
            how = f"{(came - ended) / 1000:.0f} ms too late"
        zero = began or ended
        return (
            f"Yes: the call was {evidence['outcome']} at +{(ended - zero) / 1e6:.3f} s, {found['target']} registered "
            f"at +{(came - zero) / 1e6:.3f} s, {how}."
        )

    def timeline(self) -> pd.DataFrame:
        """What happened, in order: `ts` (UTC), `step`, `from`, `to`, `since_start_ms`, `since_previous_ms`."""
        import pandas as pd  # noqa: PLC0415  likewise below: the command line does without

        rows = [
            {
                "ts": row["ts"],
                "step": ("compensating " if _own(row) else "") + message_label(row),
                "from": f"{row['src_ip']}:{row['src_port']}",
                "to": f"{row['dst_ip']}:{row['dst_port']}",
            }
            for row in self.call.messages
            if row["method"] in {"INVITE", "CANCEL", "BYE", "REGISTER"}
        ]
        frame = pd.DataFrame(rows, columns=["ts", "step", "from", "to"])
        frame["ts"] = pd.to_datetime(frame["ts"], utc=True)
        frame["since_start_ms"] = (frame["ts"] - frame["ts"].min()).dt.total_seconds() * 1000
        frame["since_previous_ms"] = frame["ts"].diff().dt.total_seconds() * 1000
        return frame

    def hypotheses(self) -> pd.DataFrame:
        """Each explanation tested on what the mirror shows: `hypothesis`, `holds` (None: cannot be told), `because`."""
        import pandas as pd  # noqa: PLC0415

        return pd.DataFrame(list(self._tested()), columns=["hypothesis", "holds", "because"])

    def _tested(self) -> Iterator[tuple[str, bool | None, str]]:
        tests: dict[str, Callable[[], tuple[bool | None, str]]] = {
            "the phone registered after the call had ended (race)": self._race,
            "another device answered": self._elsewhere,
            "the phone got the INVITE twice (retransmission)": self._retransmission,
            "the INVITE went to a binding that no longer stood (stale fork)": self._stale,
            "the phone is registered under another account (wrong AOR)": self._wrong_account,
            "the capture points disagree about the time (clock skew)": self._skew,
            "the CANCEL was lost between proxy and phone": self._lost_cancel,
        }
        for name, test in tests.items():
            yield name, *test()

    def _race(self) -> tuple[bool | None, str]:
        return self.finding is not None, self.verdict.partition(": ")[2]

    def _elsewhere(self) -> tuple[bool | None, str]:
        said = [
            row["reason_header"] for row in self.call.messages if _ELSEWHERE in (row["reason_header"] or "")
        ]
        if said:
            return True, f"a CANCEL says so: {said[0]}"
        outcome = self.finding["outcome"] if self.finding else (self.call.call or {}).get("outcome")
        by = self.finding["evidence"].get("answered_by") if self.finding else None
        if outcome == "answered":
            return True, f"the call was answered{f' by {by}' if by else ''}"
        return False, f"the call was {outcome or 'not ended'}"

    def _retransmission(self) -> tuple[bool | None, str]:
        sent = [(row["dst_ip"], row["dst_port"], row["via_branch"]) for row in self._sent_on()]
        again = len(sent) - len(set(sent))
        return again > 0, f"{again} of {len(sent)} INVITEs sent on were sent again"

    def _stale(self) -> tuple[bool | None, str]:
        silent = [f"{row['dst_ip']}:{row['dst_port']}" for row in self._sent_on() if not self._answers(row)]
        if silent:
            return True, f"no answer came from {', '.join(dict.fromkeys(silent))}"
        if not self._sent_on():
            return False, "no INVITE was sent on"
        return False, "every INVITE that was sent on was answered"

    def _wrong_account(self) -> tuple[bool | None, str]:
        if self.finding is None:
            return None, "no late phone is known"
        called = {(row["ruri_user"] or "").lower() for row in self._invites()}
        called |= {(row["to_user"] or "").lower() for row in self._invites()}
        account = str(self.finding["aor"]).removeprefix("sip:").partition("@")[0].lower()
        if account in called:
            return False, f"{account} was called and is registered"
        return True, f"{', '.join(sorted(called))} was called, {account} is registered: an alias joins them"

    def _skew(self) -> tuple[bool | None, str]:
        heard = {agent_name(row["agent_addr"], row["agent_id"]) for row in self.call.messages}
        if len(heard) < 2:
            return False, "one capture agent, so one clock"
        skews = {row["agent"]: row["skew_ms"] for row in self.agents if row["agent"] in heard}
        if len(skews) < len(heard):
            return None, f"the clocks of {', '.join(sorted(heard - skews.keys()))} are not known"
        apart_ms = max(skews.values()) - min(skews.values())
        late_ms = (
            abs(self.finding["late_ms"]) if self.finding and self.finding["late_ms"] is not None else None
        )
        if late_ms is None:
            return None, f"the agents differ by {apart_ms:.0f} ms"
        return (
            apart_ms >= late_ms,
            f"the agents differ by {apart_ms:.0f} ms, the phone was {late_ms:.0f} ms late",
        )

    def _lost_cancel(self) -> tuple[bool | None, str]:
        rang = [row for row in self._sent_on() if self._answers(row)]
        if not rang:
            return False, "no INVITE reached a phone, so none had to be cancelled"
        untold = [row for row in rang if not self._was_told(row)]
        if untold:
            where = ", ".join(dict.fromkeys(f"{row['dst_ip']}:{row['dst_port']}" for row in untold))
            return True, f"{where} rang and sent no final reply"
        return False, "every phone that rang sent a final reply"

    # -- messages --------------------------------------------------------------------------------------

    def _invites(self) -> list[Row]:
        return [
            row
            for row in self.call.messages
            if row["method"] == "INVITE" and row["status"] is None and row["to_tag"] is None and not _own(row)
        ]

    def _sent_on(self) -> list[Row]:
        """INVITEs that a proxy sent on: those that come from where one was sent to."""
        places = {(row["dst_ip"], row["dst_port"]) for row in self._invites()}
        return [row for row in self._invites() if (row["src_ip"], row["src_port"]) in places]

    def _answers(self, invite: Row) -> list[int]:
        """The statuses of replies to this INVITE on its own hop (RFC 3261 17.1.3)."""
        return [
            row["status"]
            for row in self.call.messages
            if row["status"] is not None
            and (row["method"], row["via_branch"]) == ("INVITE", invite["via_branch"])
            and (row["src_ip"], row["src_port"]) == (invite["dst_ip"], invite["dst_port"])
        ]

    def _was_told(self, invite: Row) -> bool:
        return any(status >= 200 for status in self._answers(invite))


def _own(row: Row) -> bool:
    return str(row["from_tag"] or "").startswith(OWN_TAG_PREFIX)
