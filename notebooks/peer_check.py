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
# # Does hepduck read what tshark reads?
#
# The same capture goes through tshark and through hepduck, and every SIP message is compared: time, addresses, Call-ID,
# method, status, CSeq. Differences are listed; there should be none that is not explained.

# %% tags=["parameters"]
CAPTURE = "../tests/data/asterisk/r22-main/sip_rtcp.pcap.zst"  # pcap or pcapng, plain, gzip or zstd

# %%
import subprocess
import tempfile
from pathlib import Path

import pandas as pd
import zstandard

import pipeline as hd

# %% [markdown]
# ## What tshark says
#
# Debian's tshark reads no zstd, so that is unpacked first. Without a time zone and name resolution: bare facts.

# %%
FIELDS = ["frame.time_epoch", "ip.src", "ip.dst", "udp.srcport", "udp.dstport"]
FIELDS += ["sip.Method", "sip.Status-Code", "sip.CSeq.method", "sip.CSeq.seq", "sip.Call-ID"]


def by_tshark(capture: Path) -> pd.DataFrame:
    """One row for each SIP message over UDP."""
    with tempfile.NamedTemporaryFile(suffix=".pcap") as plain:
        data = capture.read_bytes()
        if capture.suffix == ".zst":
            data = zstandard.ZstdDecompressor().stream_reader(data).read()
        plain.write(data)
        plain.flush()
        argv = ["tshark", "-n", "-r", plain.name, "-Y", "sip && udp", "-T", "fields", "-E", "separator=/t"]
        argv += [word for field in FIELDS for word in ("-e", field)]
        lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    frame = pd.DataFrame([line.split("\t") for line in lines], columns=FIELDS)
    return pd.DataFrame(
        {
            "ts": pd.to_datetime(
                frame["frame.time_epoch"].map(lambda text: round(float(text) * 1e6)), unit="us", utc=True
            ),
            "src": frame["ip.src"] + ":" + frame["udp.srcport"],
            "dst": frame["ip.dst"] + ":" + frame["udp.dstport"],
            "method": frame["sip.Method"].where(frame["sip.Method"] != "", frame["sip.CSeq.method"]),
            "status": pd.to_numeric(frame["sip.Status-Code"]).astype("Int64"),
            "cseq": pd.to_numeric(frame["sip.CSeq.seq"]).astype("Int64"),
            "call_id": frame["sip.Call-ID"],
        }
    )


tshark = by_tshark(Path(CAPTURE))
print(f"tshark sees {len(tshark)} SIP messages in {tshark['call_id'].nunique()} calls and registrations.")

# %% [markdown]
# ## What hepduck says

# %%
hd.open_files(CAPTURE)
hepduck = hd.sql(
    """SELECT ts, src_ip || ':' || src_port AS src, dst_ip || ':' || dst_port AS dst, method, status, cseq, call_id
    FROM sip WHERE transport = 'udp' ORDER BY msg_id"""
)
print(f"hepduck sees {len(hepduck)} SIP messages in {hepduck['call_id'].nunique()} calls and registrations.")

# %% [markdown]
# ## The differences
#
# Messages are matched as a multiset: the same message twice must be there twice.

# %%


def numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with a number among their equals, so that a merge pairs each with one."""
    plain = frame.assign(ts=frame["ts"].astype("datetime64[us, UTC]"))
    plain = plain.astype(
        {"status": "Int64", "cseq": "Int64", "method": str, "call_id": str, "src": str, "dst": str}
    )
    return plain.assign(number=plain.groupby(list(plain.columns), dropna=False).cumcount())


both = numbered(tshark).merge(numbered(hepduck), how="outer", indicator="seen_by")
differences = both[both["seen_by"] != "both"]
matched = int((both["seen_by"] == "both").sum())
print(f"{matched} messages agree in all of {', '.join(hepduck.columns)}; {len(differences)} differ.")
differences

# %% [markdown]
# ## By method and status
#
# The same counted: a table that is empty but for its head means that both see the same traffic.

# %%
counts = pd.DataFrame(
    {
        "tshark": tshark.groupby(["method", "status"], dropna=False).size(),
        "hepduck": hepduck.astype({"status": "Int64"}).groupby(["method", "status"], dropna=False).size(),
    }
).fillna(0)
counts[counts["tshark"] != counts["hepduck"]]

# %%
assert matched == len(tshark) == len(hepduck)
assert differences.empty
