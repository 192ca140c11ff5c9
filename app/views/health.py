"""Health: whether the numbers add up."""

from __future__ import annotations

import streamlit as st

from app import data
from pipeline.status import as_text, read_status

st.code(as_text(read_status(data.folder())), language=None)
