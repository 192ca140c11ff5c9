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
# # Who registers, how well, and who should not
#
# Bindings and how they are kept up; how long woken phones take from the push to their REGISTER; devices that flap; and
# sources that only try.

# %% tags=["parameters"]
STORE = None  # a store's folder; None: the bundled recording of a real Kamailio with 900 devices
SINCE = None  # for example "24h"

# %%
import altair as alt

import pipeline as hd

if STORE is None:
    hd.open_files("../tests/data/kamailio/mix.hep")
else:
    hd.open(STORE)
last = hd.registrations(since=SINCE, limit=1)["ts"].max().to_pydatetime()
rate = hd.registration_rate(since=SINCE, until=last)

# %% [markdown]
# ## Who is registered
#
# At the end of the data, by device type.

# %%
types = hd.binding_counts(at=last, by="user_agent")
print(
    f"{int(types['bindings'].sum())} devices are registered at {last:%Y-%m-%d %H:%M:%S} UTC, of {len(types)} types."
)
types

# %%
alt.Chart(rate).mark_line(interpolate="step-after").encode(
    x=alt.X("at:T", title="time (UTC)"), y=alt.Y("bindings:Q", title="devices registered")
)

# %% [markdown]
# ## How often they refresh
#
# `share_pct_p50` says when in its lifetime a binding is refreshed; near 100 a lost packet costs the registration.

# %%
refreshes = hd.refresh_intervals(since=SINCE)
refreshes

# %% [markdown]
# ## From the push to the REGISTER
#
# The push is not on the mirror; the proxy sends it when the INVITE comes. So the delay is taken from the call's first
# INVITE to the REGISTER being accepted. What lies right of the line would be found only with a longer window.

# %%
delays = hd.register_delays(since=SINCE)
delays[delays["phones"] > 0]

# %% [markdown]
# ## Devices that flap
#
# Registered anew after they were gone, or from elsewhere, three times or more.

# %%
flapping = hd.flaps(since=SINCE)
print(f"{len(flapping)} devices flap." if len(flapping) else "No device flaps.")
flapping.head(10)

# %% [markdown]
# ## Sources that are refused
#
# A challenge that is answered is none of these. Many accounts tried from one address is a scanner; one account from
# many addresses is a guesser, or a phone with an old password.

# %%
refused = hd.registration_failures(since=SINCE)
print(f"{len(refused)} sources are refused." if len(refused) else "Nobody is refused.")
refused.head(10)

# %% [markdown]
# ## The notebook's own checks

# %%
assert int(types["bindings"].sum()) == int(rate["bindings"].iloc[-1])
assert (refreshes["interval_s_p50"] <= refreshes["interval_s_p95"]).all()
assert str(rate["at"].dt.tz) == "UTC"
