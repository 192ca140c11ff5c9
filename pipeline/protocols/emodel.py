"""The E-model: from delay, loss and codec to a rating R (0 to about 94) and a MOS (1 to 4.5). Pure arithmetic.

    R = Ro - Is - Id - Ie,eff + A            (ITU-T G.107)

R is a planning estimate of what people would say: MOS-CQE with the delay impairment Id, MOS-LQE without.
It sees what RTCP sees; packets that come too late for the jitter buffer are lost to the ear and not counted here.
Ratings are averaged and ranked as R and turned into MOS once, at the end. Wideband (G.107.1) and fullband
(G.107.2) are scales of their own: `r_on_narrowband_scale` brings them together for a look, never for a mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.protocols.codecs import Band, Impairment

R_DEFAULT: Final = 93.2  # G.107 with all defaults, as published: Ro - Is - Id, rounded
DelayModel = Literal["simplified", "full"]

_SCALE: Final[dict[Band, float]] = {"narrowband": 1.0, "wideband": 1.29, "fullband": 1.48}
_BANDS: Final = (  # G.109 and G.107 annex B: the lower limits are on R, MOS of the same band is rounded
    (90.0, "very satisfied"),
    (80.0, "satisfied"),
    (70.0, "some dissatisfied"),
    (60.0, "many dissatisfied"),
    (50.0, "nearly all dissatisfied"),
)
_NOT_RECOMMENDED: Final = "not recommended"
_MONOTONE_FROM_R: Final = 6.5  # below, the polynomial dips under 1 and comes back
_MOS_AT_R_100: Final = 4.5


# -- parts -----------------------------------------------------------------------------------------------


def id_simplified(delay_ms: float) -> float:
    """Id for one-way mouth-to-ear delay under good echo control (Cole and Rosenbluth 2001).

    Within 0.2 of G.107 up to 300 ms; beyond, the straight line is too harsh (17 at 600 ms).
    """
    return 0.024 * delay_ms + 0.11 * max(0.0, delay_ms - 177.3)


def ie_eff(ie: float, bpl: float, loss_pct: float, burst_ratio: float = 1.0) -> float:
    """Ie,eff of G.107 for packet loss in percent; not capped, as in the recommendation.

    `burst_ratio` 1 is random loss; above 2 the formula is validated only for less than 2 % of loss.
    """
    if loss_pct <= 0:
        return ie
    return ie + (95.0 - ie) * loss_pct / (loss_pct / burst_ratio + bpl)


def burst_ratio(p: float, q: float) -> float:
    """BurstR of a two-state chain: `p` from received to lost, `q` from lost to received; both above 0."""
    return 1.0 / (p + q)


def one_way_delay_ms(
    rtt_ms: float, jitter_ms: float | None = None, *, ptime_ms: float = 20.0, lookahead_ms: float = 0.0
) -> float:
    """Mouth-to-ear delay: half of the round trip, one packet, the look-ahead, and a jitter buffer of 40 ms
    or twice the jitter, whichever is more. Jitter has no term of its own in G.107; it enters here."""
    return rtt_ms / 2 + ptime_ms + lookahead_ms + max(40.0, 2 * (jitter_ms or 0.0))


@dataclass(frozen=True, slots=True)
class Line:
    """The parameters of G.107 that are not the network's, with their default values (table 2)."""

    slr_db: float = 8.0  # send loudness rating
    rlr_db: float = 2.0  # receive loudness rating
    stmr_db: float = 15.0  # sidetone masking rating
    ds: float = 3.0  # D-value of the telephone, send side
    dr: float = 3.0  # D-value of the telephone, receive side
    telr_db: float = 65.0  # talker echo loudness rating
    wepl_db: float = 110.0  # weighted echo path loss
    qdu: float = 1.0  # quantization distortion units
    nc_dbm0p: float = -70.0  # circuit noise
    nfor_dbmp: float = -64.0  # noise floor, receive side
    ps_dba: float = 35.0  # room noise, send side
    pr_dba: float = 35.0  # room noise, receive side
    sensitivity: float = 1.0  # sT, delay sensitivity of the conversation
    min_perceivable_delay_ms: float = 100.0  # mT


_DEFAULT_LINE: Final = Line()


@dataclass(frozen=True, slots=True)
class G107:
    """What the full model makes of a line and its delay."""

    ro: float  # signal to noise
    simultaneous: float  # Is
    delay: float  # Id

    @property
    def r(self) -> float:
        """R before codec, loss and advantage."""
        return self.ro - self.simultaneous - self.delay


def g107(delay_ms: float = 0.0, line: Line = _DEFAULT_LINE) -> G107:
    """Ro, Is and Id of ITU-T G.107 section 7, echo paths as long as the way itself: T = Ta, Tr = 2 Ta."""
    t_ms, round_trip_ms = delay_ms, 2 * delay_ms
    no = _noise_dbm0p(line)
    ro = 15 - 1.5 * (line.slr_db + no)
    ist = _sidetone(line, t_ms)
    loudness = line.slr_db + line.rlr_db
    xolr = loudness + 0.2 * (64 + no - line.rlr_db)
    iolr = 20 * (_norm(1, xolr / 8, 8) - xolr / 8)
    q = 37 - 15 * math.log10(line.qdu)
    g = 1.07 + 0.258 * q + 0.0602 * q * q
    y, z = (ro - 100) / 15 + 46 / 8.4 - g / 9, 46 / 30 - g / 40
    iq = 15 * math.log10(1 + 10**y + 10**z)
    rle = 10.5 * (line.wepl_db + 7) * (round_trip_ms + 1) ** -0.25
    idle = (ro - rle) / 2 + math.sqrt((ro - rle) ** 2 / 4 + 169)
    idd = _absolute_delay(delay_ms, line)
    return G107(ro, iolr + ist + iq, _talker_echo(line, t_ms, no, ist) + idle + idd)


def _norm(a: float, b: float, power: float) -> float:
    return float((a + abs(b) ** power) ** (1 / power))


def _noise_dbm0p(line: Line) -> float:
    """No: the four noise sources at the 0 dBr point, added up (G.107 section 7.2)."""
    olr = line.slr_db + line.rlr_db
    nos = line.ps_dba - line.slr_db - line.ds - 100 + 0.004 * (line.ps_dba - olr - line.ds - 14) ** 2
    lstr = line.stmr_db + line.dr
    pre = line.pr_dba + 10 * math.log10(1 + 10 ** ((10 - lstr) / 10))
    nor = line.rlr_db - 121 + pre + 0.008 * (pre - 35) ** 2
    nfo = line.nfor_dbmp + line.rlr_db
    return 10 * math.log10(sum(10 ** (source / 10) for source in (line.nc_dbm0p, nos, nor, nfo)))


def _sidetone(line: Line, t_ms: float) -> float:
    """Ist (G.107 section 7.3)."""
    stmro = -10 * math.log10(10 ** (-line.stmr_db / 10) + math.exp(-t_ms / 4) * 10 ** (-line.telr_db / 10))
    return (
        12 * _norm(1, (stmro - 13) / 6, 8)
        - 28 * _norm(1, (stmro + 1) / 19.4, 35)
        - 13 * _norm(1, (stmro - 3) / 33, 13)
        + 29
    )


def _talker_echo(line: Line, t_ms: float, no: float, ist: float) -> float:
    """Idte (G.107 section 7.4): none below 1 ms, where an echo is sidetone."""
    if t_ms < 1:
        return 0.0
    terv = line.telr_db - 40 * math.log10((1 + t_ms / 10) / (1 + t_ms / 150)) + 6 * math.exp(-0.3 * t_ms**2)
    if line.stmr_db < 9:
        terv += ist / 2
    roe = -1.5 * (no - line.rlr_db)
    re = 80 + 2.5 * (terv - 14)
    idte = ((roe - re) / 2 + math.sqrt((roe - re) ** 2 / 4 + 100) - 1) * (1 - math.exp(-t_ms))
    return math.hypot(idte, ist) if line.stmr_db > 20 else idte


def _absolute_delay(delay_ms: float, line: Line) -> float:
    """Idd (G.107 section 7.4)."""
    if delay_ms <= line.min_perceivable_delay_ms:
        return 0.0
    x = math.log2(delay_ms / line.min_perceivable_delay_ms)
    power = 6 * line.sensitivity
    return 25 * (_norm(1, x, power) - 3 * _norm(1, x / 3, power) + 2)


# -- R and MOS -------------------------------------------------------------------------------------------


def r_factor(
    delay_ms: float | None,
    loss_pct: float,
    codec: Impairment,
    *,
    burst: float = 1.0,
    model: DelayModel = "simplified",
    advantage: float = 0.0,
) -> float:
    """R, not clamped: heavy loss and delay give less than 0.

    `delay_ms` is one way, mouth to ear; None leaves the delay out (listening quality). `burst` is BurstR.
    """
    rest = ie_eff(codec.ie, codec.bpl, loss_pct, burst) - advantage
    if model == "full":
        full = g107(delay_ms or 0.0)
        return (full.r if delay_ms is not None else full.ro - full.simultaneous) - rest
    return R_DEFAULT - (id_simplified(delay_ms) if delay_ms is not None else 0.0) - rest


def mos(r: float) -> float:
    """MOS of R (G.107 annex B), from 1 to 4.5."""
    if r >= 100:
        return _MOS_AT_R_100
    if r <= 0:
        return 1.0
    return max(1.0, 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6)


def r_of_mos(value: float) -> float:
    """R of a MOS between that of R = 6.5 and 4.5, to 1e-9; beyond these, the nearer end."""
    low, high = _MONOTONE_FROM_R, 100.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if mos(middle) < value else (low, middle)
    return high if value >= _MOS_AT_R_100 else low


def band(r: float) -> str:
    """What users say, in the words of G.109: from "very satisfied" (R 90) to "not recommended" (below 50)."""
    return next((words for limit, words in _BANDS if r >= limit), _NOT_RECOMMENDED)


def r_on_narrowband_scale(r: float, scale: Band) -> float:
    """An R of the wideband (up to 129) or fullband (up to 148) model, as R up to 100."""
    return r / _SCALE[scale]


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of R and the MOS of each: p5 is what the worst twentieth falls below."""

    count: int
    r_p5: float
    r_p50: float
    r_p95: float
    mos_p5: float
    mos_p50: float
    mos_p95: float


def spread(ratings: Iterable[float]) -> Spread | None:
    """Percentiles of R (linear between neighbours, as SQL's `quantile_cont`), then MOS. None for no ratings."""
    ordered = sorted(ratings)
    if not ordered:
        return None
    p5, p50, p95 = (_quantile(ordered, share) for share in (0.05, 0.5, 0.95))
    return Spread(len(ordered), p5, p50, p95, mos(p5), mos(p50), mos(p95))


def _quantile(ordered: list[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


# -- one direction of a leg ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quality:
    """What is said of one direction. `mos_cq` is None where no round trip is known; then `r_factor` has no delay."""

    r_factor: float  # 0 to 100
    mos_cq: float | None
    mos_lq: float
    mos_method: str  # "g107-simplified" or "g107-full"; "-lq" behind it where `r_factor` is without delay
    grounded: bool  # the codec's Ie and Bpl are published


def assess(
    loss_pct: float | None,
    codec: Impairment,
    *,
    rtt_ms: float | None = None,
    jitter_ms: float | None = None,
    burst: float = 1.0,
    ptime_ms: float = 20.0,
    model: DelayModel = "simplified",
) -> Quality | None:
    """The quality of one direction; None where its loss is unknown, for nothing can be said then."""
    if loss_pct is None:
        return None
    loss_pct = min(100.0, max(0.0, loss_pct))
    listening = r_factor(None, loss_pct, codec, burst=burst, model=model)
    method = f"g107-{model}"
    if rtt_ms is None:
        return Quality(_clamp(listening), None, mos(listening), f"{method}-lq", codec.grounded)
    delay_ms = one_way_delay_ms(rtt_ms, jitter_ms, ptime_ms=ptime_ms)
    r = r_factor(delay_ms, loss_pct, codec, burst=burst, model=model)
    return Quality(_clamp(r), mos(r), mos(listening), method, codec.grounded)


def _clamp(r: float) -> float:
    return min(100.0, max(0.0, r))
