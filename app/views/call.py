"""One call: its facts, its ladder beside the raw message, its quality."""

from __future__ import annotations

import streamlit as st

from app import data
from pipeline.callview import as_text, view

call_id = st.query_params.get("call_id", "")
st.code(as_text(view(data.store().reader, call_id)) if call_id else "no call", language=None)
