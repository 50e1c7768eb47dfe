"""A proxy in front of a real server that does to requests what networks and busy servers do to them."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

_CHUNK = 1 << 14


@dataclass
class Faults:
    """What goes wrong, as shares of requests from 0 to 1. May be changed while the proxy runs.

    Attributes:
        drop: the connection breaks in the middle of the body.
        slow_down: 503 SlowDown in place of an answer.
        truncate: a body with its tail cut off, and a length that agrees with that.
        corrupt: a body with one byte changed.
        stale: 404 for a GET or HEAD of an object that was written less than `stale_seconds` ago.
        latency: seconds before every answer.
        bandwidth: bytes a second over all connections; 0 for no limit.
        seed: of what goes wrong.
        log: the fault of every request, or "".
        sent: bytes of answers.
    """

    drop: float = 0.0
    slow_down: float = 0.0
    truncate: float = 0.0
    corrupt: float = 0.0
    stale: float = 0.0
    stale_seconds: float = 1.0
    latency: float = 0.0
    bandwidth: float = 0.0
    seed: int = 0
    log: list[str] = field(default_factory=list)
    sent: int = 0


class FaultProxy:
    """Forwards HTTP/1.1 requests to a port on loopback, one connection to the server for each."""

    def __init__(self, port: int, faults: Faults) -> None:
        self.faults = faults
        self._target = port
        self._random = random.Random(faults.seed)
        self._lock = threading.Lock()
        self._written: dict[str, float] = {}
        self._free_at = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, suppress(OSError), connection.makefile("rb") as requests:
            while head := _head(requests):
                body = requests.read(_length(head))
                if not self._answer(connection, head, body):
                    return

    def _answer(self, connection: socket.socket, head: bytes, body: bytes) -> bool:
        """Forward one request; False where the connection has to end."""
        method, path = head.split(b" ", 2)[:2]
        target = path.decode().partition("?")[0]
        fault = self._choose(method.decode(), target)
        time.sleep(self.faults.latency)
        if fault == "slow_down":
            return self._error(connection, b"503 Slow Down", b"SlowDown", method)
        if fault == "stale":
            return self._error(connection, b"404 Not Found", b"NoSuchKey", method)
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            server.sendall(re.sub(rb"(?mi)^connection:.*\r\n", b"", head)[:-2] + b"Connection: close\r\n\r\n" + body)
            with server.makefile("rb") as answers:
                answer = _head(answers)
                while answer.startswith(b"HTTP/1.1 100"):
                    answer = _head(answers)
                if not fault and method == b"GET":
                    return self._stream(connection, answer, answers)
                data = b"" if method == b"HEAD" else answers.read()
        if method in (b"PUT", b"POST") and answer.split(b" ", 2)[1] == b"200":
            with self._lock:
                self._written[target] = time.monotonic()
        return self._send(connection, answer, data, fault)

    def _choose(self, method: str, target: str) -> str:
        faults = self.faults
        with self._lock:
            fresh = time.monotonic() - self._written.get(target, -1e9) < faults.stale_seconds
            draw, chosen = self._random.random(), ""
            for name in ("drop", "slow_down", "truncate", "corrupt", "stale"):
                share = getattr(faults, name)
                if 0 <= draw < share:
                    chosen = name
                    break
                draw -= share
            if chosen in ("truncate", "corrupt") and method != "GET":
                chosen = "drop"
            if chosen == "stale" and not (fresh and method in ("GET", "HEAD")):
                chosen = ""
            faults.log.append(chosen)
            return chosen

    def _send(self, connection: socket.socket, head: bytes, data: bytes, fault: str) -> bool:
        """Pass an answer on; False where the connection has to end."""
        head = re.sub(rb"(?mi)^connection:.*\r\n", b"", head)
        if len(data) > 1 and fault == "truncate":
            data = data[: len(data) * 2 // 3]
            head = re.sub(rb"(?mi)^content-length:.*\r\n", b"Content-Length: %d\r\n" % len(data), head)
        if data and fault == "corrupt":
            place = self._random.randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        if fault == "drop":
            connection.sendall(head)
            self._pour(connection, data[: len(data) // 2])
            connection.shutdown(socket.SHUT_RDWR)
            return False
        connection.sendall(head)
        self._pour(connection, data)
        return b"\r\ncontent-length:" in head.lower()

    def _stream(self, connection: socket.socket, head: bytes, answers: BinaryIO) -> bool:
        """Pass an unchanged answer on as it arrives; False where the connection has to end."""
        connection.sendall(re.sub(rb"(?mi)^connection:.*\r\n", b"", head))
        while part := answers.read(_CHUNK):
            self._pour(connection, part)
        return b"\r\ncontent-length:" in head.lower()

    def _pour(self, connection: socket.socket, data: bytes) -> None:
        """Send at the speed that all connections share."""
        for start in range(0, len(data), _CHUNK):
            part = data[start : start + _CHUNK]
            if self.faults.bandwidth:
                with self._lock:
                    now = time.monotonic()
                    self._free_at = max(now, self._free_at) + len(part) / self.faults.bandwidth
                    wait = self._free_at - now
                time.sleep(wait)
            connection.sendall(part)
            with self._lock:
                self.faults.sent += len(part)

    def _error(self, connection: socket.socket, status: bytes, code: bytes, method: bytes) -> bool:
        text = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>as asked by the test.</Message></Error>" % code
        body = b"" if method == b"HEAD" else text
        connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), body))
        return True


def _head(stream: BinaryIO) -> bytes:
    lines = b""
    while line := stream.readline():
        lines += line
        if line == b"\r\n":
            break
    return lines


def _length(head: bytes) -> int:
    found = re.search(rb"(?mi)^content-length: *(\d+)", head)
    return int(found[1]) if found else 0


@contextmanager
def fault_proxy(port: int, **faults: float) -> Iterator[FaultProxy]:
    """A proxy in front of a port, for as long as the context lasts; `faults`: fields of `Faults`."""
    proxy = FaultProxy(port, Faults(**faults))  # type: ignore[arg-type]
    try:
        yield proxy
    finally:
        proxy.close()
