"""Quality: how calls sounded."""

from __future__ import annotations

import streamlit as st

from app import data, frame
from pipeline.store import quality_queries

seen = frame.get()
rows = quality_queries.figures(data.store().reader, by="trunk", since=seen.since, until=seen.until)
st.dataframe(rows, key="quality_table", hide_index=True)
