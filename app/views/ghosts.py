"""Ghost calls: what the detectors found, and what was done about it."""

from __future__ import annotations

import streamlit as st

from app import data, frame
from pipeline.store import queries

rows = queries.findings(data.store().reader, since=frame.get().since)
st.dataframe(rows, key="ghosts_table", hide_index=True)
