# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How did calls sound?
#
# Quality by trunk, codec, device and hour; where it went wrong; what the CDRs say against what the RTCP reports say;
# and how many calls nothing is known of, and why.

# %% tags=["parameters"]
STORE = None  # a store's folder; None: the bundled recording of a real Asterisk 22 and its CDRs
SINCE = None  # for example "7d"
ZONE = "UTC"

# %%
import altair as alt
import pandas as pd
from IPython.display import display

import pipeline as hd

RECORDED = "../tests/data/asterisk/r22-main"
if STORE is None:
    hd.open_files(f"{RECORDED}/sip_rtcp.pcap.zst", cdrs=[f"{RECORDED}/cdr_full.csv"])
else:
    hd.open(STORE)
parts = hd.quality_overview(since=SINCE, zone=ZONE, by="trunk")
total = parts["total"].iloc[0]

# %% [markdown]
# ## Coverage first
#
# A percentile of what was measured says nothing about calls that were not.

# %%
coverage = hd.quality_coverage(since=SINCE)
rated = int(coverage.loc[coverage["why"] == "rated", "calls"].sum())
audible = int(coverage.loc[coverage["audible"], "calls"].sum())
print(
    f"{rated} of {audible} calls that could be heard are rated; {int(coverage['calls'].sum()) - audible} had nothing."
)
coverage

# %% [markdown]
# ## The whole
#
# Percentiles are of R; the MOS beside is the MOS of that R. p5 is what the unlucky heard.

# %%
print(
    f"{int(total['rated'])} directions of {int(total['calls'])} calls: "
    f"R p5 {total['r_p5']:.1f} (MOS {total['mos_p5']:.2f}), "
    f"p50 {total['r_p50']:.1f} (MOS {total['mos_p50']:.2f})."
)
alt.Chart(parts["bands"]).mark_bar().encode(
    x=alt.X("directions:Q", title="directions of legs"),
    y=alt.Y("band:N", sort=alt.SortField("r_from", order="descending"), title="users are (ITU-T G.109)"),
    tooltip=list(parts["bands"].columns),
)

# %% [markdown]
# ## How each MOS was made
#
# CQ counts the delay, LQ does not; without `grounded` the codec has no published impairment, and a stand-in was used.

# %%
hd.quality_methods(since=SINCE)

# %% [markdown]
# ## By trunk, codec, device
#
# The worst p5 stands first.

# %%
FIGURES = ["key", "calls", "rated", "r_p5", "r_p50", "mos_p5", "loss_pct_p95", "jitter_ms_p95", "rtt_ms_p95"]
for by in ("trunk", "codec", "ua"):
    frame = hd.quality(by, since=SINCE, zone=ZONE)
    known = frame.dropna(subset=["r_p5"])
    if not known.empty:
        first = known.iloc[0]
        print(f"Worst {by}: {first['key']}, R p5 {first['r_p5']:.1f} over {int(first['rated'])} directions.")
    display(frame[FIGURES].head(10))

# %% [markdown]
# ## By hour

# %%
alt.Chart(parts["over_time"]).mark_line(point=True).encode(
    x=alt.X("at:T", title=f"time ({ZONE})"),
    y=alt.Y("r_p5:Q", title="R, 5th percentile", scale=alt.Scale(domain=[0, 100])),
    tooltip=["at:T", "rated:Q", "r_p5:Q", "r_p50:Q"],
)

# %% [markdown]
# ## Where it went wrong
#
# The worst calls that are long enough to be ranked, with the reason beside: loss, jitter or delay.

# %%
worst = hd.worst_calls(since=SINCE, limit=10)
worst

# %% [markdown]
# ## CDR against RTCP over HEP
#
# Two witnesses of the same direction of the same leg. They sample the same reports at different moments, so they differ
# a little; where they differ a lot, one of them is wrong. (Empty when only one of the two was there.)

# %%
pairs = hd.sql(
    """SELECT c.call_id, c.leg, c.direction, c.loss_pct AS cdr_loss_pct, h.loss_pct AS hep_loss_pct,
        c.jitter_ms AS cdr_jitter_ms, h.jitter_ms AS hep_jitter_ms, c.r_factor - h.r_factor AS r_difference
    FROM leg_quality c JOIN leg_quality h USING (call_id, leg, direction)
    WHERE c.source = 'cdr' AND h.source = 'hep rtcp'"""
)
if len(pairs):
    apart = (pairs["cdr_loss_pct"] - pairs["hep_loss_pct"]).abs()
    print(f"{len(pairs)} directions have both: loss differs by {apart.median():.2f} points in the middle,")
    print(f"by {apart.max():.2f} at most.")
else:
    print("No direction has both a CDR and RTCP over HEP.")
pairs.head(10)

# %% [markdown]
# ## The notebook's own checks

# %%
assert rated <= audible <= int(coverage["calls"].sum())
assert int(total["rated"]) == int(parts["bands"]["directions"].sum())
assert not worst["r_factor"].dropna().diff().dropna().lt(0).any(), "worst first"
assert pd.api.types.is_datetime64_any_dtype(worst["ts"])
