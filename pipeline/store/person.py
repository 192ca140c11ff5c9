"""Whom a row is about: a number or an address of record, as it stands in the columns of every table.

A number is meant with and without `+` or `00` before it, whatever domain it is in. An address of record is a user in
one domain; in tables without domains (those of CDRs) it is the user of that name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pipeline.errors import ConfigError
from pipeline.protocols.uri import escape_user, parse_uri
from pipeline.store.duck import quoted

_NUMBER: Final = re.compile(r"(?:tel:)?(?:\+|00)?([0-9][0-9.()\s-]*)", re.IGNORECASE)
_BEFORE: Final = r"(?:^|[^\w.%+-])"
_AFTER: Final = r"(?:[^\w.%+-]|$)"


@dataclass(frozen=True, slots=True)
class Person:
    """Conditions on columns. `user` and `host` are regular expressions (RE2); `host` is None for a number."""

    name: str
    user: str
    host: str | None

    @classmethod
    def of(cls, text: str) -> Person:
        """`sip:bob@sip.test`, `bob@sip.test`, `+4930123456`. Raises ConfigError for anything else."""
        name = text.strip()
        number = _NUMBER.fullmatch(name)
        if number is not None:
            digits = re.sub(r"\D", "", number[1])
            return cls(name, rf"(?:\+|00)?{digits}", None)
        uri = parse_uri(name if ":" in name else f"sip:{name}")
        if uri is None or not uri.user or not uri.host:
            raise ConfigError(f"{text!r} is no number and no address: write +4930123456 or sip:bob@sip.test")
        spellings = sorted({uri.user, escape_user(uri.user)})
        return cls(name, f"(?:{'|'.join(map(re.escape, spellings))})", f"(?i:{re.escape(uri.host)})")

    def is_user(self, user: str) -> str:
        """The column holds the user, in a table that knows no domains."""
        return f"regexp_full_match({user}, {quoted(self.user)})"

    def is_at(self, user: str, host: str) -> str:
        """The columns hold the user and the domain."""
        of_domain = "" if self.host is None else f" AND regexp_full_match({host}, {quoted(self.host)})"
        return f"({self.is_user(user)}{of_domain})"

    def in_text(self, column: str) -> str:
        """A URI of this person stands somewhere in the text or the bytes of the column."""
        if self.host is None:
            found = f"(?i:sips?|tel):{self.user}{_AFTER}"
        else:
            found = rf"{_BEFORE}{self.user}(?:[;:][^@\s>]*)?@{self.host}{_AFTER}"
        return f"regexp_matches({column}::VARCHAR, {quoted(found)})"

    def in_json(self, column: str) -> str:
        """The same, or a value of the JSON in the column is the user, in whatever domain."""
        value = rf'"{self.user}(?:@[^"]*)?"' if self.host is None else f'"{self.user}"'
        return f"({self.in_text(column)} OR regexp_matches({column}::VARCHAR, {quoted(value)}))"

    def in_name(self, column: str) -> str:
        """The user stands in a name of Asterisk's: a channel, an endpoint, a caller's id, what Dial() was given."""
        found = rf"(?:^|[/<:&]){self.user}(?:[>@,&/]|-[0-9a-f]{{4,}}(?:;[12])?$|$)"
        return f"regexp_matches({column}, {quoted(found)})"
