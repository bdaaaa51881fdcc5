"""Servers of several processes for tests: a primary with a replica, sentinels, a cluster. Stopped at the end.

Each place is started once in a process, when first needed, and is stopped when that ends.
"""

import atexit
import contextlib
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_PATIENCE = 20.0
SERVICE = "mymaster"


def until(true: Callable[[], object], what: str) -> None:
    """Wait for a server to come so far."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, _failures()):
            if true():
                return
        time.sleep(0.02)
    msg = f"not within {_PATIENCE} s: {what}"
    raise AssertionError(msg)


def _failures() -> type[Exception]:
    import redis

    return redis.RedisError


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One process of an engine, with an administrator's client."""

    def __init__(self, program: str, *options: object, port: int | None = None) -> None:
        import redis

        self.port = free_port() if port is None else port
        self._command = [program, *map(str, options)]
        self.folder = Path(tempfile.mkdtemp(prefix="budgetguard-place-"))
        self.admin: Any = redis.Redis(port=self.port, socket_timeout=5)
        self.process = self._start()
        atexit.register(self.end)

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [
                *self._command,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """End it without a warning."""
        self.process.kill()
        self.process.wait()

    def again(self) -> None:
        """Start it again."""
        self.process = self._start()
        until(self.admin.ping, "a server answers again")

    def end(self) -> None:
        """End it for good."""
        self.kill()
        self.admin.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def server(program: str, *options: object, port: int | None = None) -> Server:
    """A server without persistence, which answers."""
    started = Server(program, "--save", "", "--repl-diskless-sync-delay", 0, *options, port=port)
    until(started.admin.ping, "a server answers")
    return started


def replica_of(primary: Server, program: str, *options: object) -> Server:
    """A replica that has all that its primary has."""
    started = server(program, "--replicaof", f"127.0.0.1 {primary.port}", *options)
    until(lambda: started.admin.info("replication")["master_link_status"] == "up", "it replicates")
    return started


class Sentinels:
    """Three sentinels that watch a primary with a replica."""

    def __init__(self, program: str) -> None:
        self.primary = server(program)
        self.replica = replica_of(self.primary, program)
        names = [(free_port(), secrets.token_hex(20)) for _ in range(3)]
        self.ports = [port for port, _ in names]
        self._sentinels = [self._sentinel(program, names, *each) for each in names]
        for each in self._sentinels:
            until(each.admin.ping, "a sentinel answers")
            # It asks servers for their roles only every 10 s, which a failover on purpose waits for.
            each.admin.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", 100)

    def _sentinel(self, program: str, names: list[tuple[int, str]], port: int, name: str) -> Server:
        watch = f"{SERVICE} 127.0.0.1"
        lines = [
            f"sentinel myid {name}",
            f"sentinel monitor {watch} {self.primary.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 3000",
            f"sentinel known-replica {watch} {self.replica.port}",
            *(
                f"sentinel known-sentinel {watch} {other} {theirs}"
                for other, theirs in names
                if other != port
            ),
        ]
        folder = Path(tempfile.mkdtemp(prefix="budgetguard-sentinel-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        file = folder / "sentinel.conf"
        file.write_text("\n".join(lines) + "\n")
        return Server(program, file, "--sentinel", port=port)

    @property
    def hosts(self) -> str:
        """As in a URL."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def fail_over(self) -> None:
        """Have the other server made the primary; the old one goes on as its replica."""
        until(lambda: self._sentinels[0].admin.sentinel_failover(SERVICE), "a failover begins")

    def kill_primary(self) -> Server:
        """Kill it, and return it; once the sentinels agree on who it is."""
        until(lambda: len(self.named()) == 1, "the sentinels agree")
        (port,) = self.named()
        (primary,) = (each for each in (self.primary, self.replica) if each.port == port)
        primary.kill()
        return primary

    def named(self) -> set[int]:
        """The ports that the sentinels name."""
        states = [each.admin.sentinel_masters()[SERVICE] for each in self._sentinels]
        return {state["port"] for state in states}


@cache
def sentinels(program: str) -> Sentinels:
    """The ones of this process."""
    return Sentinels(program)


class Cluster:
    """Three primaries, the first one with a replica."""

    def __init__(self, program: str) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", 500)
        self.nodes = [self._node(program, *options) for _ in range(4)]
        first, *others, replica = self.nodes
        ranges = ((0, 5460), (5461, 10922), (10923, 16383))
        for each, slots in zip((first, *others), ranges, strict=True):
            each.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
        for epoch, each in enumerate(self.nodes, 1):
            each.admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for each in (*others, replica):
            each.admin.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port)
        for each in self.nodes:
            until(lambda it=each: _knows(it, len(self.nodes)), "a node knows all others")
        mine = first.admin.execute_command("CLUSTER", "MYID")
        replica.admin.execute_command("CLUSTER", "REPLICATE", mine)
        for each in self.nodes:
            until(lambda it=each: _state(it)["cluster_state"] == "ok", "the cluster is up")

    @staticmethod
    def _node(program: str, *options: object) -> Server:
        while (port := free_port()) > 55000:
            pass  # the port of the cluster's bus is 10000 higher
        return server(program, *options, port=port)

    @property
    def hosts(self) -> str:
        """As in a URL: of two nodes."""
        return ",".join(f"127.0.0.1:{each.port}" for each in self.nodes[1:3])

    def take_back(self) -> None:
        """Start the first node again, and make it the primary of its slots."""
        first = self.nodes[0]
        first.again()
        until(lambda: first.admin.role()[0] == b"slave", "it is a replica")
        until(lambda: first.admin.info("replication")["master_link_status"] == "up", "it has all")
        first.admin.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
        until(lambda: first.admin.role()[0] == b"master", "it is the primary")
        for each in self.nodes:
            until(lambda it=each: _state(it)["cluster_state"] == "ok", "the cluster is up")

    def begin_to_move(self, slot: int, source: Server, target: Server) -> list[bytes]:
        """Let a slot be moved; returns its keys."""
        here, there = (
            each.admin.execute_command("CLUSTER", "MYID").decode() for each in (source, target)
        )
        command = ("CLUSTER", "SETSLOT", slot)
        target.admin.execute_command(*command, "IMPORTING", here)
        source.admin.execute_command(*command, "MIGRATING", there)
        keys: list[bytes] = source.admin.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        return keys

    def move(self, keys: list[bytes], source: Server, target: Server) -> None:
        """Move some keys."""
        source.admin.execute_command(
            "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys
        )

    def end_to_move(self, slot: int, target: Server) -> None:
        """Let everybody know where it is now."""
        name = target.admin.execute_command("CLUSTER", "MYID").decode()
        for each in (target, *(it for it in self.nodes if it is not target)):
            if each.admin.role()[0] == b"master":
                each.admin.execute_command("CLUSTER", "SETSLOT", slot, "NODE", name)


def _state(node: Server) -> dict[str, str]:
    told = node.admin.execute_command("CLUSTER", "INFO")
    if isinstance(told, dict):
        return told
    lines = (told.decode() if isinstance(told, bytes) else told).split()
    return dict(each.split(":", 1) for each in lines)


def _knows(node: Server, nodes: int) -> bool:
    return int(_state(node)["cluster_known_nodes"]) == nodes


@cache
def cluster(program: str) -> Cluster:
    """The one of this process."""
    return Cluster(program)
