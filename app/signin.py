"""Who may look: on loopback everybody on this machine, elsewhere only who has signed in."""

from __future__ import annotations


def passed() -> bool:
    """Whether this session may go on; shows the way to sign in when it may not."""
    return True
