"""Calls: one search, one table."""

from __future__ import annotations

import streamlit as st

from app import data, frame
from pipeline.store import queries

seen = frame.get()
rows = queries.find_calls(data.store().reader, since=seen.since, until=seen.until, limit=100)
st.caption(f"{len(rows)} calls, {seen.words}")
st.dataframe(rows, key="calls_table", hide_index=True)
