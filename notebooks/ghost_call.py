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
# # Why did my phone ring with a ghost call?
#
# iOS puts the call screen up when the push arrives. If the caller gives up, or another device answers, before the woken
# app registers, nobody tells that phone. This notebook looks at one call and says whether that happened, and why.

# %% tags=["parameters"]
STORE = None  # a store's folder; None: the bundled recording of a real Kamailio
CALL_ID = None  # of the call in question; or
AOR = None  # the account that complained ("sip:bob@sip.test"), its newest ghost call is taken; None: the newest of all
SINCE = None  # how far back to look for the comparison, for example "7d"

# %%
import json
import tempfile
from pathlib import Path

import altair as alt
import pandas as pd

import pipeline as hd
from pipeline.export.capture import write_pcap

store = hd.open_files("../tests/data/kamailio/mix.hep") if STORE is None else hd.open(STORE)
ghosts = hd.findings(kind="late_register", since=SINCE, limit=10_000)
if CALL_ID is None:
    mine = ghosts if AOR is None else ghosts[ghosts["aor"] == AOR]
    assert len(mine), "no ghost call is known there: give a CALL_ID to look at another call"
    CALL_ID = mine["call_id"].iloc[0]

# %% [markdown]
# ## 1. The verdict

# %%
story = hd.ghost_story(CALL_ID)
print(story.verdict)

# %% [markdown]
# ## 2. What this is based on
#
# All that follows comes from the SIP that was mirrored. Not on the mirror, and so inferred only: the push itself, and
# what the phone's screen showed.

# %%
messages = hd.messages(CALL_ID)
begin, end = messages["ts"].min(), messages["ts"].max()
agents = sorted({f"{agent:g}" for agent in messages["agent_id"].dropna()})
print(f"Call {CALL_ID}: {len(messages)} messages, {begin:%Y-%m-%d %H:%M:%S.%f} to {end:%H:%M:%S.%f} UTC.")
print(f"Capture agents: {', '.join(agents) or 'unnamed'}.")
weird = hd.sql(f"SELECT kind, count(*) AS n FROM weird WHERE ts BETWEEN '{begin}' AND '{end}' GROUP BY kind")
print(f"Messages that could not be read meanwhile: {int(weird['n'].sum()) if len(weird) else 0}.")
hd.sql("SELECT node, agent, hep_versions, skew_ms, first_seen, last_seen FROM agent")

# %% [markdown]
# ## 3. The ladder

# %%
ladder = hd.ladder(CALL_ID)
print(ladder.text)

# %%
ladder.chart()

# %% [markdown]
# ## 4. The timeline
#
# The proxy asks for the push when the INVITE comes in and no phone can be reached; the call screen is up from about
# then.

# %%
timeline = story.timeline()
timeline

# %% [markdown]
# ## 5. Explanations, one by one

# %%
hypotheses = story.hypotheses()
hypotheses

# %% [markdown]
# ## 6. How common is that?
#
# From the call's first INVITE to the REGISTER of a woken phone, for all calls: in time, late (a ghost call), or after
# the end and yet no ghost.

# %%
delays = hd.register_delays(since=SINCE)
shown = delays[delays["phones"] > 0].assign(to=lambda frame: frame["high_s"].map("up to {:g} s".format))
total = int(delays["phones"].sum())
late = int(delays.loc[delays["what"] == "late", "phones"].sum())
print(
    f"{total} times a phone of the callee registered after the INVITE; {late} of these were too late for their call."
)
alt.Chart(shown).mark_bar().encode(
    x=alt.X("to:N", sort=alt.SortField("high_s"), title="from INVITE to REGISTER"),
    y=alt.Y("phones:Q", title="phones"),
    color=alt.Color("what:N", title=None),
    tooltip=["what", "to", "phones"],
)

# %%
devices = ghosts.groupby("user_agent")["late_ms"].describe(percentiles=[0.5, 0.95])[["count", "50%", "95%"]]
print("Ghost calls by kind of phone, and how late these were (ms):")
devices

# %% [markdown]
# ## 7. What if the detector waited longer, or shorter?
#
# The stored messages are run through the detector again with other windows. Each one found is one call that would have
# been placed.

# %%
windows = hd.other_windows([2, 5, 10, 15, 30], since=SINCE)
windows

# %% [markdown]
# ## 8. Did the compensating call work?
#
# What each action did, and how the phone answered. (Nothing here: no action is armed, or none was tried.)

# %%
attempts = pd.DataFrame(story.call.attempts)
attempts if len(attempts) else print("No action was taken for this call.")

# %% [markdown]
# ## 9. Take it away
#
# A capture for Wireshark, the evidence as JSON, the text for the ticket.

# %%
folder = Path(tempfile.mkdtemp(prefix="ghost-call-"))
written = write_pcap(folder / "call.pcapng", story.call.messages, story.call.findings)
evidence = story.finding["evidence"] if story.finding else {}
(folder / "evidence.json").write_text(json.dumps(evidence, indent=2, default=str))
(folder / "ticket.txt").write_text(f"{story.verdict}\n\n{ladder.text}")
print(f"{folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")

# %% [markdown]
# ## The notebook's own checks

# %%
assert written == len(story.call.messages)
assert timeline["since_start_ms"].is_monotonic_increasing
assert windows["found"].is_monotonic_increasing, "a longer window finds no less"
assert story.finding is None or bool(hypotheses["holds"].iloc[0])
assert late <= total
