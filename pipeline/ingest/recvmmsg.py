"""Many datagrams per system call, and so per turn of the interpreter lock.

Beside a busy Python thread a receiver waits up to 5 ms for the lock after each call that let it go. With
recvfrom(2) that is one datagram per turn; recvmmsg(2) fetches all that have come in the meantime.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import sys
from struct import Struct
from typing import Final, Protocol

MAX_DATAGRAM_BYTES: Final = 65535  # UDP holds less, so nothing is ever cut
_STRIDE_BYTES: Final = 65536 + 64  # not a power of two, so that slots do not share cache sets
_MSG_WAITFORONE: Final = 0x10000
_SOCKADDR_BYTES: Final = 28  # sockaddr_in6; of the shorter sockaddr_in the first 8 bytes matter
_SOCKADDR_IN: Final = Struct("!2xH4s")
_SOCKADDR_IN6: Final = Struct("!2xH4x16s")
_NOTHING_CAME: Final = (errno.EAGAIN, errno.EINTR)

Sender = bytes | tuple[str, int]
"""Who sent a datagram, as cheap as it comes and hashable; `sender_address` reads it."""


def sender_address(sender: Sender) -> tuple[str, int]:
    """IP address without brackets, and port."""
    if isinstance(sender, tuple):
        return sender[:2]
    if len(sender) == _SOCKADDR_IN.size:
        port, ip = _SOCKADDR_IN.unpack(sender)
        return socket.inet_ntoa(ip), port
    port, ip = _SOCKADDR_IN6.unpack_from(sender)
    return socket.inet_ntop(socket.AF_INET6, ip), port


class Receiver(Protocol):
    """Reads datagrams from one blocking UDP socket."""

    def receive(self, wait: bool = True) -> list[tuple[bytes, Sender]]:
        """The datagrams that are there; waits for the first one, for as long as the socket's timeout lasts,
        unless told not to. Raises OSError when the socket fails."""


class SingleReceiver:
    """recvfrom(2): one datagram per call, for systems without recvmmsg(2)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def receive(self, wait: bool = True) -> list[tuple[bytes, Sender]]:
        """See `Receiver`."""
        try:
            return [self._sock.recvfrom(MAX_DATAGRAM_BYTES, 0 if wait else socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return []


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("hdr", _Msghdr), ("len", ctypes.c_uint))


_HEADER_WORDS: Final = ctypes.sizeof(_Mmsghdr) // 4
_LENGTH_WORD: Final = _Mmsghdr.len.offset // 4


class BatchReceiver:
    """recvmmsg(2) into buffers that are made once. Their memory is touched only where datagrams land.

    Raises AttributeError where the C library has no recvmmsg(2).
    """

    def __init__(self, sock: socket.socket, max_datagrams: int = 1024) -> None:
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._sock = sock
        self._max_datagrams = max_datagrams
        self._sender_bytes = _SOCKADDR_IN.size if sock.family == socket.AF_INET else _SOCKADDR_BYTES
        data = mmap.mmap(-1, max_datagrams * _STRIDE_BYTES)
        names = bytearray(max_datagrams * _SOCKADDR_BYTES)
        data_at = ctypes.addressof(ctypes.c_char.from_buffer(data))
        names_at = ctypes.addressof(ctypes.c_char.from_buffer(names))
        self._iovecs = (_Iovec * max_datagrams)()
        self._headers = (_Mmsghdr * max_datagrams)()
        iovecs_at = ctypes.addressof(self._iovecs)
        for slot, (header, iovec) in enumerate(zip(self._headers, self._iovecs, strict=True)):
            iovec.base, iovec.len = data_at + slot * _STRIDE_BYTES, MAX_DATAGRAM_BYTES
            header.hdr.name = names_at + slot * _SOCKADDR_BYTES
            header.hdr.namelen = _SOCKADDR_BYTES
            header.hdr.iov = iovecs_at + slot * ctypes.sizeof(_Iovec)
            header.hdr.iovlen = 1
        self._data = memoryview(data)
        self._names = memoryview(names)
        self._lengths = memoryview(self._headers).cast("B").cast("I")[_LENGTH_WORD::_HEADER_WORDS]

    def receive(self, wait: bool = True) -> list[tuple[bytes, Sender]]:
        """See `Receiver`."""
        flags = _MSG_WAITFORONE if wait else socket.MSG_DONTWAIT
        count = self._recvmmsg(self._sock.fileno(), self._headers, self._max_datagrams, flags, None)
        if count < 0:
            error = ctypes.get_errno()
            if error in _NOTHING_CAME:
                return []
            raise OSError(error, os.strerror(error))
        data, names, lengths, sender_bytes = self._data, self._names, self._lengths, self._sender_bytes
        return [
            (
                data[slot * _STRIDE_BYTES : slot * _STRIDE_BYTES + lengths[slot]].tobytes(),
                names[slot * _SOCKADDR_BYTES : slot * _SOCKADDR_BYTES + sender_bytes].tobytes(),
            )
            for slot in range(count)
        ]


def best_receiver(sock: socket.socket) -> Receiver:
    """The fastest receiver that this system has."""
    return BatchReceiver(sock) if sys.platform == "linux" else SingleReceiver(sock)
