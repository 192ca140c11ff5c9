"""`hepduck doctor`: what is wrong in Kamailio's, Asterisk's or hepduck's configuration, and the line to change.

    with Look(store, settings) as look:
        for check, diagnosis in examine(look):
            print(check.name, diagnosis.verdict, diagnosis.told)

Each check is one function: it asks the store, the tap's status or the system, and says what it found with its
numbers and the lines that mend it. To add one, write it in the module of its kind and name it in `CHECKS`.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb

from pipeline.doctor import ghosts, hep, media, mirror, tap
from pipeline.doctor.diagnosis import Check, Diagnosis, Mend, Verdict, cannot_tell
from pipeline.doctor.look import Look
from pipeline.errors import HepduckError

__all__ = ["CHECKS", "Check", "Diagnosis", "Look", "Mend", "Verdict", "examine"]

CHECKS: tuple[Check, ...] = (
    *(tap.tap, tap.silence, tap.senders, tap.key, tap.receive_buffer, tap.drops, tap.parts),
    *(hep.raw_sip, hep.undecodable, hep.hep_version, hep.mixed_versions, hep.clock),
    *(hep.duplicates, hep.truncated),
    *(mirror.replies, mirror.hops, mirror.registers, mirror.large),
    *(ghosts.aliases, ghosts.push_devices, ghosts.trust, ghosts.arming, ghosts.compensating_call),
    *(media.rtcp, media.cdr_sources, media.cdr_calls, media.cdr_zone),
)


def examine(look: Look) -> Iterator[tuple[Check, Diagnosis]]:
    """What every check says, in the order of `CHECKS`. None of them changes anything."""
    for check in CHECKS:
        yield check, _judge(check, look)


def _judge(check: Check, look: Look) -> Diagnosis:
    if check.needs == "status" and look.status is None:
        return cannot_tell("no tap has run with this store")
    if check.needs == "messages" and look.until is None:
        return cannot_tell("the store holds no message")
    try:
        return check.judge(look)
    except KeyError as error:
        return cannot_tell(f"the check failed: status.json, of another version, lacks {error}")
    except (duckdb.Error, HepduckError) as error:  # the others may still know
        return cannot_tell(f"the check failed: {str(error).splitlines()[0]}")
