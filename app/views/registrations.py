"""Registrations: who is registered, from where, with what."""

from __future__ import annotations

import streamlit as st

from app import data, frame
from pipeline.store import queries

rows = queries.registrations(data.store().reader, since=frame.get().since)
st.dataframe(rows, key="registrations_table", hide_index=True)
