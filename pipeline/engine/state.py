"""The calls and devices that the engine knows now, indexed for detectors, bounded, expired by event time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.durations import Duration
from pipeline.engine.bindings import SECOND_US, Device, Place, Registration
from pipeline.engine.calls import MADE_BY_EDGE, Call, Leg, mark_of
from pipeline.engine.events import Address, SipEvent

CALL_SILENT_US = 240 * SECOND_US  # ringing may be silent for longer than timer C (RFC 3261 16.6: > 3 min)
CALL_LONGEST_US = 12 * 3600 * SECOND_US
REGISTER_US = 40 * SECOND_US  # timer F (32 s) and some


StartTimer = Callable[[str, int, str], None]  # name, at_us, agent
CancelTimer = Callable[[str], None]  # name


class StateSettings(BaseModel):
    """Hard bounds of the engine's memory; the oldest entry goes when one is hit, and is counted."""

    model_config = ConfigDict(extra="forbid")

    max_calls: int = Field(100_000, gt=0, description="calls followed at once")
    max_devices: int = Field(200_000, gt=0, description="registered devices remembered at once")
    max_registrations: int = Field(100_000, gt=0, description="REGISTER transactions in progress at once")
    queue_datagrams: int = Field(200_000, gt=0, description="received datagrams that may wait for the engine")
    recall: Duration = Field(
        timedelta(hours=1), description="at start, registrations of that long are read from the store again"
    )
    recall_messages: int = Field(100_000, ge=0, description="most messages that are read for that; 0: none")


def index_keys(key: str) -> tuple[str, str]:
    """The two names under which `user@domain` is found: itself, and `user@` for user-only matching."""
    return key, key.partition("@")[0] + "@"


class State:
    """Takes every event of interest in, and attaches the call or registration it belongs to."""

    def __init__(
        self, settings: StateSettings, start_timer: StartTimer, cancel_timer: CancelTimer, memory_us: int
    ) -> None:
        self._settings = settings
        self._start_timer = start_timer
        self._cancel_timer = cancel_timer
        self._memory_us = memory_us  # how long a settled call can still matter to a detector
        self.calls: dict[str, Call] = {}
        self.registrations: dict[tuple[str, int | None], Registration] = {}
        self.devices: dict[tuple[str, str], Device] = {}
        self._calls_by_key: dict[str, dict[str, Call]] = {}
        # By address and user: behind a session border controller all phones have the same address.
        self._calls_by_target: dict[tuple[Address, str | None], dict[str, Call]] = {}
        self._removals: dict[str, dict[tuple[str, int | None], Registration]] = {}  # recent, by account
        self._devices_by_key: dict[str, dict[tuple[str, str], Device]] = {}
        self._devices_by_address: dict[tuple[Address, str | None], dict[tuple[str, str], Device]] = {}
        self.evicted = {"call": 0, "device": 0, "registration": 0, "hop": 0}
        self.changed_calls: dict[str, Call] = {}  # since the rows were last taken
        self.registered: list[tuple[Registration, str]] = []  # settled since then, and what they did

    # -- events in -------------------------------------------------------------------------------------

    def take(self, event: SipEvent) -> bool:
        """File one event; True when it changed what is known of its call or registration."""
        if event.sip.method == "REGISTER":
            return self._take_register(event)
        return self._take_call(event)

    def _take_call(self, event: SipEvent) -> bool:
        call_id = event.sip.call_id
        if call_id is None:
            return False
        call = self.calls.get(call_id)
        if call is None:
            if event.sip.method == "BYE":
                return False  # of a call from before our time
            call = Call(call_id, event.agent, event.ts_us, event.ts_us)
            self._make_room(self.calls, self._settings.max_calls, "call", self._drop_call)
            self.calls[call_id] = call
            self._start_timer(f"call:{call_id}", event.ts_us + self._memory_us, event.agent)
        event.call = call
        legs, crowded = len(call.legs), call.crowded
        news = call.add(event)
        self.evicted["hop"] += call.crowded and not crowded
        if len(call.legs) != legs:
            self._index_leg(call)
        self.changed_calls[call_id] = call
        return news

    def _index_leg(self, call: Call) -> None:
        leg = next(reversed(call.legs.values()))
        self._calls_by_target.setdefault((leg.dst, leg.ruri_user), {})[call.call_id] = call
        for key in call.callee_keys():
            for name in index_keys(key):
                self._calls_by_key.setdefault(name, {})[call.call_id] = call

    def _take_register(self, event: SipEvent) -> bool:
        sip = event.sip
        if sip.call_id is None:
            return False
        name = (sip.call_id, sip.cseq)
        registration = self.registrations.get(name)
        if registration is None:
            self._make_room(
                self.registrations, self._settings.max_registrations, "registration", self._drop_registration
            )
            registration = self.registrations[name] = Registration(
                sip.call_id, sip.cseq, event.agent, mark_of(event), event.trusted
            )
            self._start_timer(f"register:{sip.cseq}:{sip.call_id}", event.ts_us + REGISTER_US, event.agent)
        event.registration = registration
        known, crowded = registration.accepted is not None, registration.crowded
        news = registration.add(event)
        self.evicted["hop"] += registration.crowded and not crowded
        if not news or registration.aor is None:
            return False
        if not known:
            self._bind(registration, registration.aor)
        return True

    def _bind(self, registration: Registration, account: str) -> None:
        assert registration.accepted is not None
        ts_us = registration.accepted.ts_us
        key = (account, registration.identity)
        device = self.devices.get(key)
        if not registration.binds:
            if registration.removes:
                self.registered.append((registration, "removed"))
                self._removals.setdefault(account, {})[registration.call_id, registration.cseq] = registration
                for one in self._devices_by_key.get(account, {}).values():
                    self._remove_bindings(one)
            return
        if device is None:
            device = Device(account, registration.identity, registration.agent)
            self._make_room(self.devices, self._settings.max_devices, "device", self._drop_device)
            self.devices[key] = device
            for name in index_keys(device.aor):
                self._devices_by_key.setdefault(name, {})[key] = device
        self.registered.append((registration, "refreshed" if device.is_bound_at(ts_us) else "registered"))
        before = device.known_at()
        device.remember(registration, ts_us, self._memory_us)
        for left in before - device.known_at():
            _remove(self._devices_by_address, left, key)
        for found in device.known_at() - before:
            self._devices_by_address.setdefault(found, {})[key] = device
        self._remove_bindings(device)
        self._start_timer(f"device:{key[0]}\n{key[1]}", device.expires_us + self._memory_us, device.agent)

    def _remove_bindings(self, device: Device) -> None:
        # An un-REGISTER may be mirrored before the REGISTER that it takes back.
        for removal in self._removals.get(device.aor, {}).values():
            if removal.accepted is not None and device.is_removed_by(removal):
                device.removed_us = max(device.removed_us, removal.accepted.ts_us)

    # -- questions of detectors ------------------------------------------------------------------------

    def calls_to(self, keys: Iterable[str]) -> Iterator[Call]:
        """Calls with one of `keys` as callee, directly or because they were sent to one of their devices."""
        found: dict[str, Call] = {}
        for key in keys:
            found.update(self._calls_by_key.get(key, {}))
            for device in self._devices_by_key.get(key, {}).values():
                for target in device.known_at():
                    found.update(self._calls_by_target.get(target, {}))
        yield from found.values()

    def devices_of(self, call: Call, keys: Iterable[str]) -> Iterator[Device]:
        """Devices registered for one of `keys`, or for an account that one of the call's legs went to."""
        names = set(keys)
        for leg in call.legs.values():
            at_target = self._devices_by_address.get((leg.dst, leg.ruri_user), {})
            names.update(device.aor for device in at_target.values())
        found: dict[tuple[str, str], Device] = {}
        for name in names:
            found.update(self._devices_by_key.get(name, {}))
        yield from found.values()

    def device_of(self, registration: Registration) -> Device | None:
        """The device that this registration made or refreshed."""
        return self.devices.get((registration.aor or "", registration.identity))

    def reached(self, call: Call, device: Device) -> bool:
        """Whether an INVITE of the call went to the device, wherever it was, and anything came back from there.

        Behind an edge proxy whose far side is not mirrored the INVITE is seen going to the edge, with the
        phone's contact as Request-URI; what the edge may have said itself is no sign. A call with more legs
        than are followed may have reached anybody. Of a call that was heard in part a reply may be all that is
        left of an INVITE.
        """
        if call.crowded:
            return True
        for leg, statuses in call.replied_legs():
            place = device.places.get(leg.dst)
            if place is not None and self._is_for(leg, device, place):
                return True
            if any(
                leg.dst[0] in p.edge_ips and leg.ruri == p.contact for p in device.places.values()
            ) and any(status > 100 and status not in MADE_BY_EDGE for status in statuses):
                return True
        return call.heard_in_part and not call.stray_replies_from().isdisjoint(p[0] for p in device.places)

    def _is_for(self, leg: Leg, device: Device, place: Place) -> bool:
        # Phones may share an address, at once (behind a session border controller) or one after the other.
        # The INVITE is for the one whose contact it names; if several have that, for the last that came.
        others = [
            other.places[leg.dst]
            for other in self._devices_by_address.get((leg.dst, leg.ruri_user), {}).values()
            if other.identity != device.identity and other.places[leg.dst].contact == leg.ruri
        ]
        if place.contact != leg.ruri:
            return not others
        return not any(place.ts_us < other.ts_us < leg.first.ts_us for other in others)

    # -- expiry ----------------------------------------------------------------------------------------

    def timer(self, name: str, at_us: int, agent: str) -> None:
        """One of the state's own timers is due."""
        kind, _, rest = name.partition(":")
        if kind == "call":
            self._expire_call(rest, name, at_us, agent)
        elif kind == "register":
            cseq, _, call_id = rest.partition(":")
            self._drop_registration((call_id, None if cseq == "None" else int(cseq)))
        elif kind == "device":
            aor, _, identity = rest.partition("\n")
            device = self.devices.get((aor, identity))
            if device is not None:
                if at_us < device.expires_us + self._memory_us:
                    return  # refreshed meanwhile: a later timer runs
                if device.is_bound_at(device.expires_us):
                    self.registered.append((device.latest, "expired"))
                self._drop_device((aor, identity))

    def _expire_call(self, call_id: str, name: str, at_us: int, agent: str) -> None:
        call = self.calls.get(call_id)
        if call is None:
            return
        ending = call.facts().ending
        if ending is None:
            until_us = call.last_us + CALL_SILENT_US
        else:
            until_us = ending.ts_us + self._memory_us
            if ending.outcome == "answered" and at_us >= until_us:  # only its BYE is still of interest
                self._unindex(call)
                call.settle()
                until_us = (call.bye.ts_us if call.bye else call.last_us + CALL_LONGEST_US) + self._memory_us
        if until_us > at_us:
            self._start_timer(name, min(until_us, at_us + CALL_SILENT_US), agent)
        else:
            self._drop_call(call_id)

    def _make_room(self, table: dict[Any, Any], limit: int, kind: str, drop: Callable[[Any], None]) -> None:
        while len(table) >= limit:
            self.evicted[kind] += 1
            drop(next(iter(table)))

    def _drop_call(self, call_id: str) -> None:
        call = self.calls.pop(call_id)
        self._cancel_timer(f"call:{call_id}")
        self._unindex(call)

    def _drop_registration(self, name: tuple[str, int | None]) -> None:
        registration = self.registrations.pop(name, None)
        self._cancel_timer(f"register:{name[1]}:{name[0]}")
        if registration is not None and registration.nearest is not None and registration.aor is not None:
            _remove(self._removals, registration.aor, name)

    def _unindex(self, call: Call) -> None:
        for key in call.callee_keys():
            for name in index_keys(key):
                _remove(self._calls_by_key, name, call.call_id)
        for leg in call.legs.values():
            _remove(self._calls_by_target, (leg.dst, leg.ruri_user), call.call_id)

    def _drop_device(self, key: tuple[str, str]) -> None:
        device = self.devices.pop(key)
        self._cancel_timer(f"device:{key[0]}\n{key[1]}")
        for name in index_keys(device.aor):
            _remove(self._devices_by_key, name, key)
        for target in device.known_at():
            _remove(self._devices_by_address, target, key)


def _remove(index: dict[Any, dict[Any, Any]], name: Any, member: Any) -> None:
    members = index.get(name)
    if members is not None:
        members.pop(member, None)
        if not members:
            del index[name]
