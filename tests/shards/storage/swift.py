"""A real S3 server on loopback: OpenStack Swift with its s3api, from pip packages alone.

One replica of everything in one folder, four daemons, an account of its own. Nothing of it outlives the process.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.request import Request, urlopen

import obstore
from obstore.store import S3Store

ACCESS_KEY, SECRET_KEY = "test:tester", "testing"
LIMITED_KEY, LIMITED_SECRET = "test:limited", "limiting"  # an account's user without any rights
_START_SECONDS = 60.0

_PROXY_FILTERS = """
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
paste.filter_factory = tests.shards.storage.swift_cache:filter_factory
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_limited = limiting
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
[filter:symlink]
use = egg:swift#symlink
"""

# One replica of everything on one device; in a process of its own, for Swift brings eventlet along.
_RINGS = """
import sys
from swift.common.ring import RingBuilder
for word in sys.argv[2:]:
    name, port = word.split("=")
    builder = RingBuilder(2, 1, 0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "sdb1", "weight": 1.0,
                     "replication_ip": "127.0.0.1", "replication_port": int(port)})
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{name}.ring.gz")
"""


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int

    def make_bucket(self, name: str) -> None:
        """Create a bucket; obstore has no call for that, so by a signed URL."""
        store = S3Store(
            name,
            endpoint=self.endpoint,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region="us-east-1",
            client_options={"allow_http": True},
        )
        url = obstore.sign(store, "PUT", "", timedelta(minutes=5))
        with urlopen(Request(url, method="PUT", data=b"")) as answer:
            assert answer.status == 200

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The usual variables with which clients find it; `endpoint`: of a proxy in front of it."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def supports_xattr(folder: Path) -> bool:
    """Whether the folder's file system keeps the extended attributes that Swift needs."""
    probe = folder / "xattr-probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.swift.metadata", b"x" * 64)
    except OSError:
        return False
    finally:
        probe.unlink()
    return True


@contextmanager
def swift_server(root: Path) -> Iterator[Server]:
    """A server whose files lie in `root`, for as long as the context lasts.

    Raises:
        RuntimeError: it does not come up; with the end of its log.
    """
    for part in ("etc", "srv/sdb1", "log", "run", "cache"):
        (root / part).mkdir(parents=True)
    ports = {name: free_port() for name in ("proxy", "account", "container", "object")}
    _configure(root, ports)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for name in ("account", "container", "object", "proxy"):
            with (root / "log" / f"{name}.log").open("wb") as log:
                command = [_tool(f"swift-{name}-server"), str(root / "etc" / f"{name}.conf"), "--verbose"]
                daemons.append(
                    subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, cwd=root, env=_environment())
                )
        _wait(root, ports, daemons)
        yield Server(ports["proxy"])
    finally:
        for daemon in daemons:
            daemon.kill()
        for daemon in daemons:
            daemon.wait()


def _environment() -> dict[str, str]:
    """With this repository importable, for the cache."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _configure(root: Path, ports: dict[str, int]) -> None:
    etc = root / "etc"
    (etc / "swift.conf").write_text("[swift-hash]\nswift_hash_path_prefix = tests\nswift_hash_path_suffix = tests\n")
    user = _user()
    common = f"user = {user}\nswift_dir = {etc}\nbind_ip = 127.0.0.1\nworkers = 0\nlog_level = ERROR\n"
    for name in ("account", "container", "object"):
        (etc / f"{name}.conf").write_text(
            f"[DEFAULT]\n{common}bind_port = {ports[name]}\ndevices = {root / 'srv'}\nmount_check = false\n"
            f"disable_fallocate = true\n[pipeline:main]\npipeline = {name}-server\n"
            f"[app:{name}-server]\nuse = egg:swift#{name}\n"
        )
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            _RINGS,
            str(etc),
            *(f"{name}={ports[name]}" for name in ("account", "container", "object")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise RuntimeError(f"Swift's rings cannot be made: {made.stderr}")
    (etc / "proxy.conf").write_text(
        f"[DEFAULT]\n{common}bind_port = {ports['proxy']}\n[pipeline:main]\n"
        "pipeline = catch_errors gatekeeper healthcheck cache listing_formats s3api tempauth copy slo dlo "
        "versioned_writes symlink proxy-server\n[app:proxy-server]\nuse = egg:swift#proxy\n"
        f"account_autocreate = true\nallow_account_management = true\n{_PROXY_FILTERS}"
    )


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _wait(root: Path, ports: dict[str, int], daemons: list[subprocess.Popen[bytes]]) -> None:
    """Until all four answer; a proxy alone says that it is well, too."""
    deadline = time.monotonic() + _START_SECONDS
    waiting = set(ports.values())
    while time.monotonic() < deadline and not any(daemon.poll() is not None for daemon in daemons):
        for port in sorted(waiting):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                waiting.remove(port)
        if not waiting:
            return
        time.sleep(0.05)
    logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted((root / "log").iterdir()))
    raise RuntimeError(f"Swift did not start within {_START_SECONDS:g} s:\n{logs}")
