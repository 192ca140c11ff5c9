"""The password file: lines `USER:scrypt:N:R:P:SALT:HASH` (RFC 7914)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Final

from pipeline.errors import ConfigError

_N, _R, _P = 2**15, 8, 1  # 32 MB and about 0.1 s a try
_MAX_MEMORY_BYTES: Final = 64 * 2**20


def password_line(user: str, password: str) -> str:
    """A line for the password file: `USER:scrypt:N:R:P:SALT:HASH`. Raises ConfigError for a user that cannot be."""
    if not user or ":" in user or user != user.strip() or not user.isprintable():
        raise ConfigError(f"{user!r} is no user name: printable, and no colon in it")
    salt = secrets.token_bytes(16)
    return ":".join(
        [user, "scrypt", f"{_N}:{_R}:{_P}", _text(salt), _text(_hashed(password, salt, _N, _R, _P))]
    )


def read_passwords(path: Path) -> dict[str, str]:
    """User -> the rest of the line. Raises ConfigError that names the line; empty lines and `#` lines are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"app.password_file {path} cannot be read: {error}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, rest = line.strip().partition(":")
        if not user or not _is_hash(rest):
            raise ConfigError(
                f"{path}, line {number}: no line of a password file; `hepduck app --password-line USER` makes one"
            )
        found[user] = rest
    if not found:
        raise ConfigError(f"{path} names nobody; `hepduck app --password-line USER` makes a line")
    return found


def fits(password: str, hashed: str) -> bool:
    """Whether the password is the one that `hashed` (the line without its user) was made of."""
    n, r, p, salt, digest = _parts(hashed)
    return hmac.compare_digest(_hashed(password, salt, n, r, p), digest)


def _parts(hashed: str) -> tuple[int, int, int, bytes, bytes]:
    """N, r, p, salt and hash of a line. Raises ValueError for what is none, and for one that needs too much memory."""
    scheme, n, r, p, salt, digest = hashed.split(":")
    numbers = int(n), int(r), int(p)
    if scheme != "scrypt" or min(numbers) < 1 or 128 * numbers[0] * numbers[1] > _MAX_MEMORY_BYTES:
        raise ValueError(hashed)
    return *numbers, _bytes(salt), _bytes(digest)


def _is_hash(text: str) -> bool:
    try:
        _parts(text)
    except ValueError:
        return False
    return True


def _hashed(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=2 * _MAX_MEMORY_BYTES)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text)
