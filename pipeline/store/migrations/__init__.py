"""Numbered SQL, applied in order by the writer: `NNNN_what_for.sql`, one column per line in a table."""
