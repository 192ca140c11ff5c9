"""What a check is, and what it says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pipeline.doctor.look import Look

KAMAILIO, ASTERISK_HEP, DIALPLAN = "kamailio.cfg", "hep.conf", "extensions.conf"
HEPDUCK, SHELL = "hepduck.toml", "shell"


class Verdict(StrEnum):
    """`advice` works, but not as well as it could; `cannot tell` wants facts that are not there."""

    WRONG = "wrong"
    ADVICE = "advice"
    OK = "ok"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Mend:
    """The lines to write, and into what: a configuration file, or `shell`."""

    where: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What one check found: a sentence with its numbers, the same numbers by name, and what mends it."""

    verdict: Verdict
    told: str
    mends: tuple[Mend, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)


def ok(told: str, **numbers: Any) -> Diagnosis:
    """All is well."""
    return Diagnosis(Verdict.OK, told, numbers=numbers)


def advice(told: str, *mends: Mend, **numbers: Any) -> Diagnosis:
    """It could be better."""
    return Diagnosis(Verdict.ADVICE, told, mends, numbers)


def wrong(told: str, *mends: Mend, **numbers: Any) -> Diagnosis:
    """Something hepduck is for does not work."""
    return Diagnosis(Verdict.WRONG, told, mends, numbers)


def cannot_tell(told: str, **numbers: Any) -> Diagnosis:
    """There is nothing to judge by."""
    return Diagnosis(Verdict.CANNOT_TELL, told, numbers=numbers)


def lines(where: str, *text: str) -> Mend:
    """`Mend` in short."""
    return Mend(where, text)


def counted(count: int, noun: str) -> str:
    """`1 agent`, `2 agents`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


Judge = Callable[["Look"], Diagnosis]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at. `needs`: without messages (or a tap's status) it is not asked at all."""

    name: str
    about: str  # the first sentence of its docstring
    looks_at: str  # the tables and files it reads
    needs: Literal["messages", "status"] | None
    judge: Judge


def check(
    looks_at: str, *, needs: Literal["messages", "status"] | None = "messages"
) -> Callable[[Judge], Check]:
    """Makes a function a check of its name; its docstring says what is judged, and by which rule."""

    def made(judge: Judge) -> Check:
        about = (inspect.getdoc(judge) or "").partition("\n")[0]
        return Check(judge.__name__.rstrip("_"), about, looks_at, needs, judge)

    return made
