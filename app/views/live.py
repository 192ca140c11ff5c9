"""Live: messages as they arrive."""

from __future__ import annotations

import streamlit as st

from app import data
from pipeline.store import queries

rows = queries.tail(data.store().reader)
st.dataframe(rows[::-1], key="live_table", hide_index=True)
