"""What Asterisk says of its media: the strings of `CHANNEL(rtcp,all*)`, mended, as one `Leg`.

    leg = parse_leg({"all": row["rtcp_a_all"], "all_jitter": row["rtcp_a_all_jitter"], ...}, codec="PCMU")
    leg.incoming.lost, leg.outgoing.jitter_ms, leg.rtt_ms, leg.flags

Two grammars exist: since 18.17, 20.2 and 21 (commit 7dc8773178) with a media experience score ("MES"), before
without. Each mend below says where it is from: "res" is `res/res_rtp_asterisk.c`, "main" is `main/rtp_engine.c`,
"seen" is seen on the wire and in the CDRs of 18.16.0 and 22.10.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

from pipeline.protocols.codecs import Codec, lookup
from pipeline.protocols.leg import Direction, Flag, Leg, share_pct

Value = str | int | float | None  # as CSV, or a database driver, hands a column over

RTCP_INTERVAL_S: Final = 5.0  # Asterisk's default `rtcpinterval`
_PACKETS_PER_INTERVAL: Final = 250  # of 20 ms
_EMPTY_REPORTS: Final = 3
_MAX_JITTER_MS: Final = 5_000.0  # a report interval; seen: 112 s, from a broken report
_MAX_RTT_MS: Final = 60_000.0
_OPUS_JITTER_MS: Final = 45.0  # 8000 Hz makes 10 * (48000/8000 - 1) of Opus packets of 10 ms; less a margin

STRINGS: Final = ("all", "all_jitter", "all_loss", "all_rtt", "all_mes")
SCALARS: Final = ("txjitter", "rxjitter", "txploss", "rxploss", "rtt")


def parse_leg(
    columns: Mapping[str, Value],
    *,
    leg: Literal["a", "b"] = "a",
    codec: str | None = None,
    duration_s: float | None = None,
) -> Leg | None:
    """One leg from its columns: those of `STRINGS` and `SCALARS` that the source has. None when all are empty.

    A key that is there with None or "" is a column that the hangup handler did not reach, a missing key is none
    at all. `codec` is as in `codecs.lookup`, `duration_s` the billed time; both may be unknown. The strings count
    before the scalar columns, which hold the same, often as `NOT NULL default 0`. Never raises.
    """
    return _Reader(columns, leg, lookup(codec), duration_s).leg()


# -- reading strings -------------------------------------------------------------------------------------

_PAIR: Final = re.compile(r"\s*([a-z_]+)=(?:([0-9]+)(\.[0-9]+)?|-[0-9.]+|-?nan|-?inf)(;|\Z)", re.ASCII)
_MAX_CHARACTERS: Final = 1024  # the longest seen has 203


def parse_pairs(text: str) -> tuple[dict[str, float], bool]:
    """`key=value;` pairs, and whether the text was cut.

    A counter is never last in its string, and a float has six decimals ("%f", main): a value that breaks this
    has been cut by its column or by cdr_custom's 1023 bytes, and is left out. So is what is no number, or negative.
    """
    values: dict[str, float] = {}
    at = 0
    text = text[:_MAX_CHARACTERS].rstrip()
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None:
            return values, "=" in text
        key, whole, decimals, end = pair.groups()
        at = pair.end()
        if whole is None:
            continue
        if (len(decimals) < 7 if decimals else not end) or len(whole) > 10:
            return values, True
        values[key] = float(whole + (decimals or ""))
    return values, False


def _number(value: Value) -> float | None:
    """A scalar column; None for an empty one, and for what is no number."""
    try:
        number = float(value) if value is not None and value != "" else None
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and 0 <= number < 1e10 else None


class _Reader:
    """The columns of one leg on their way to a `Leg`; `flags` gathers what was met."""

    def __init__(
        self, columns: Mapping[str, Value], leg: str, codec: Codec | None, duration_s: float | None
    ) -> None:
        self.codec, self.duration_s = codec, duration_s
        self.flags: set[Flag] = set()
        self.values: dict[str, float] = {}
        texts = {name: str(columns.get(name) or "").strip() for name in STRINGS}
        parsed = {name: parse_pairs(text) for name, text in texts.items()}
        for pairs, was_cut in parsed.values():
            self.values |= pairs
            if was_cut:
                self.flags.add("clamped")
        scalars = {name: _number(columns.get(name)) for name in SCALARS}
        if not parsed["all"][0]:
            self._take_scalars(scalars)
        self.mes_era = any(name in self.values for name in ("txmes", "rxmes", "mintxjitter", "minrxmes"))
        if 9999 <= (scalars["rtt"] or 0) < 10_000:  # the most that decimal(10,6) holds, when not strict
            self.flags |= {"clamped", "rtt_skew"}
        if leg == "b" and self.values and self._unreached(columns):
            self.flags.add("truncated_b")

    def _take_scalars(self, scalars: Mapping[str, float | None]) -> None:
        """The scalar columns where there is no `all`. A zero counts only if `rtt`, written last, was written
        too: a column that is `NOT NULL default 0` is 0 whether anybody wrote it or not."""
        reached = scalars["rtt"] is not None
        names = ("txjitter", "rxjitter", "rlp", "lp", "rtt")
        for name, value in zip(names, (scalars[scalar] for scalar in SCALARS), strict=True):
            if value or (value is not None and reached):
                self.values.setdefault(name, value)

    def _unreached(self, columns: Mapping[str, Value]) -> bool:
        return any(
            name in columns and columns[name] in (None, "")
            for name in (*STRINGS, *SCALARS)
            if name != "all_mes" or self.mes_era
        )

    def leg(self) -> Leg | None:
        if not any(self.values.values()):
            return None
        incoming, outgoing = self._incoming(), self._outgoing()
        incoming, outgoing = self._opus(incoming, outgoing)
        if (incoming.packets == 0) != (outgoing.packets == 0):
            self.flags.add("one_way")
        rtt_ms, rtt_min_ms, rtt_mean_ms, rtt_max_ms = self._rtt()
        return Leg(
            incoming, outgoing, rtt_ms, rtt_min_ms, rtt_mean_ms, rtt_max_ms,
            ssrc=self._count("ssrc") or None,
            remote_ssrc=self._count("themssrc") or None,
            flags=frozenset(self.flags),
        )  # fmt: skip

    # -- the two directions ------------------------------------------------------------------------------

    def _incoming(self) -> Direction:
        """Asterisk's own measurement. `txjitter` and `txmes` of `all` are about what Asterisk received, though
        their names say the opposite; in the other strings `rx` is received (res: `ast_rtp_get_stat`)."""
        packets, lost = self._count("rxcount"), self._count("lp")
        if packets == 0:
            return Direction(packets=0)  # `lp=1` is possible here: a phantom (seen)
        if self._is_short(packets):
            self.flags.add("short")
            lost = None
        lost = self._unless_restarted(lost, packets)
        last_ms, mean_ms, max_ms, stdev_ms = self._jitter_ms("txjitter"), None, None, None
        if "seq_restart" not in self.flags:  # else the jump counted as jitter: seen 500 ms
            mean_ms, max_ms = self._jitter_ms("avgrxjitter"), self._jitter_ms("maxrxjitter")
            stdev_ms = self._stdev_ms("{}rxjitter")
        return Direction(
            packets=packets,
            lost=lost,
            loss_pct=None if lost is None or packets is None else share_pct(lost, packets + lost),
            jitter_ms=last_ms if mean_ms is None else mean_ms,
            jitter_max_ms=max_ms,
            jitter_last_ms=last_ms,
            jitter_stdev_ms=stdev_ms,
            mes=self.values.get("txmes") or None,
        )

    def _outgoing(self) -> Direction:
        """What the phone reports, as far as it does: `rxjitter` and `rxmes` of `all`, `tx` or `reported_` in the
        other strings. The lost packets are `rlp`: those names are not swapped."""
        packets = self._count("txcount")
        mes = self.values.get("rxmes") or None
        lost = self._signed(self._count("rlp"))
        heard = self._remote_reported(lost)
        if not heard and not (packets == 0 and self._count("rxcount")):
            self.flags.add("no_rtcp")
        if not heard or packets == 0:
            return Direction(packets=packets, mes=mes)
        lost = self._unless_restarted(lost, packets)
        last_ms = self._jitter_ms("rxjitter") if self.mes_era else None
        mean_ms, max_ms, stdev_ms = self._reported_jitter(packets)
        return Direction(
            packets=packets,
            lost=lost,
            loss_pct=share_pct(lost, packets),
            jitter_ms=last_ms if mean_ms is None else mean_ms,
            jitter_max_ms=max_ms,
            jitter_last_ms=last_ms,
            jitter_stdev_ms=stdev_ms,
            mes=mes,
        )

    def _is_short(self, packets: int | None) -> bool:
        """Whether the call ended before Asterisk's first report, which alone brings `lp` up to date. Since MES
        a score of its own stream says that there was one (main: no score is below 20)."""
        if self.mes_era and "txmes" in self.values:
            return self.values["txmes"] == 0
        if self.duration_s is not None:
            return self.duration_s < RTCP_INTERVAL_S
        return packets is not None and max(packets, self._count("txcount") or 0) < _PACKETS_PER_INTERVAL

    def _remote_reported(self, lost: int | None) -> bool:
        """Whether the phone's reports were about our stream. Reports of all zeros are not: many phones open with
        some, and they alone make `rxmes` 88.087887 (seen). Nor is one lost packet with nothing else: a phone
        that received nothing reports that (asterisk issue 2012)."""
        signs = ("rtt", "rxjitter", "maxtxjitter", "reported_maxjitter")
        return any(self.values.get(sign) for sign in signs) or (lost or 0) not in (0, 1)

    def _unless_restarted(self, lost: int | None, packets: int | None) -> int | None:
        """`lp` jumps to near a multiple of 65536 when sequence numbers step back under one SSRC (seen: 65311)."""
        if lost is None or lost <= 0:
            return lost
        near_wrap = lost > 32768 and min(lost % 65536, -lost % 65536) <= 1000
        if near_wrap or (packets is not None and lost > 20 * max(packets, 50)):
            self.flags.add("seq_restart")
            return None
        return lost

    def _signed(self, lost: int | None) -> int | None:
        """Cumulative loss is signed with 24 bits (RFC 3550 section 6.4.1); Asterisk keeps it unsigned (res)."""
        if lost is None or lost < 1 << 23:
            return lost
        self.flags.add("negative_lost")
        return lost - (1 << 24)

    # -- jitter ------------------------------------------------------------------------------------------

    def _jitter_ms(self, key: str, unit_ms: float = 1000.0) -> float | None:
        value = self.values.get(key)
        if value is None:
            return None
        if value * unit_ms > _MAX_JITTER_MS:
            self.flags.add("clamped")
            return None
        return value * unit_ms

    def _stdev_ms(self, pattern: str, unit_ms: float = 1000.0) -> float | None:
        """Before MES the deviation was printed through a second square root (res, 16.18 to 18.16), and before
        16.18 and 18.4 it was wrong altogether: then it is more than any deviation within min and max can be."""
        value, low, high = (self.values.get(pattern.format(what)) for what in ("stdev", "min", "max"))
        if value is None or low is None or high is None:
            return None
        stdev = value if self.mes_era else value * value
        # 0.75: half of the range is the most (Popoviciu), a little more for so few samples and six decimals.
        return stdev * unit_ms if stdev <= 0.75 * (high - low) + 2e-6 else None

    def _reported_jitter(self, packets: int | None) -> tuple[float | None, float | None, float | None]:
        """Mean, maximum and deviation of the jitter that the phone reported, in ms.

        Before MES these are in RTP timestamp units, and the last value is always 0: an integer division (res).
        Empty reports that many phones open with count as 0 in Asterisk's mean (seen: three of pjsua's). Where
        there were any, the mean is raised by three reports' share, but not above E[x^2] / E[x], to which a zero
        adds nothing and which a spike pulls up.
        """
        if self.mes_era:
            key, unit_ms = "{}txjitter", 1000.0
        else:
            key, unit_ms = "reported_{}jitter", 1000.0 / (self.codec.clock_rate_hz if self.codec else 8000)
        mean_ms, max_ms = (self._jitter_ms(key.format(what), unit_ms) for what in ("avg", "max"))
        stdev_ms = self._stdev_ms(key, unit_ms)
        if mean_ms and stdev_ms and packets and self.values.get(key.format("min")) == 0:
            full_reports = max(1, packets // _PACKETS_PER_INTERVAL)
            mean_ms = min(mean_ms * (1 + _EMPTY_REPORTS / full_reports), mean_ms + stdev_ms**2 / mean_ms)
        return mean_ms, max_ms, stdev_ms

    def _opus(self, incoming: Direction, outgoing: Direction) -> tuple[Direction, Direction]:
        """Passing Opus through, Asterisk measures it with 8000 instead of 48000 Hz (seen; the cause is inferred):
        each packet of 20 ms seems 100 ms late. Without the codec's name those 100 ms give a clean call away."""
        mean_ms, last_ms = incoming.jitter_ms, incoming.jitter_last_ms
        if self.codec is None:
            wrong = (
                mean_ms is not None
                and last_ms is not None
                and abs(last_ms - 100) <= 0.5
                and abs(mean_ms - 100) <= 2.5
            )
        else:
            wrong = self.codec.name == "OPUS" and (mean_ms is None or mean_ms >= _OPUS_JITTER_MS)
        if not wrong:
            return incoming, outgoing
        self.flags.add("opus_clock")
        incoming = replace(
            incoming, jitter_ms=None, jitter_max_ms=None, jitter_last_ms=None, jitter_stdev_ms=None
        )
        # Timestamp units were divided by the right clock already, where it was known.
        factor = 8000 / 48000 if self.mes_era or self.codec is None else 1.0
        return incoming, replace(
            outgoing,
            jitter_ms=_times(outgoing.jitter_ms, factor),
            jitter_max_ms=_times(outgoing.jitter_max_ms, factor),
            jitter_last_ms=_times(outgoing.jitter_last_ms, factor),
            jitter_stdev_ms=_times(outgoing.jitter_stdev_ms, factor),
        )

    # -- the rest ----------------------------------------------------------------------------------------

    def _rtt(self) -> tuple[float | None, float | None, float | None, float | None]:
        """Usual, least, mean and greatest round trip in ms. The last value may be one that Asterisk rejected:
        with a wrong delay in the report it underflows to about 65533 s, and counts in no mean (seen)."""
        last_ms, min_ms, mean_ms, max_ms = (
            value * 1000 if (value := self.values.get(key)) else None
            for key in ("rtt", "minrtt", "avgrtt", "maxrtt")
        )
        rejected = last_ms is not None and "maxrtt" in self.values and max_ms is None
        if last_ms is not None and (rejected or last_ms > _MAX_RTT_MS):
            self.flags.add("rtt_skew")
            last_ms = None
        usual_ms = min((ms for ms in (last_ms, mean_ms) if ms is not None), default=None)
        return usual_ms, min_ms, mean_ms, max_ms

    def _count(self, key: str) -> int | None:
        value = self.values.get(key)
        return None if value is None else int(value)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
