#!/usr/bin/env bash
# apsw 3.50.4.0 (PyPI), which brings SQLite 3.50.4; run on Linux, November 2026.
#
# It is well known that a connection must not be used on both sides of a fork. Here the child leaves its
# parent's connection alone and opens one of its own, to a database in WAL mode, and its commits are lost all
# the same. SQLite keeps the locks of a file in a table of the process. The child has a copy of that table,
# in which the file is locked already, so its own connection takes no lock that the kernel knows of. Once the
# parent has closed its connection, any other program that opens the database and goes takes itself for the
# last one, and removes the log that the child writes to. What the child commits from then on is seen by the
# child alone. Every commit succeeds, and `integrity_check` says "ok" on both sides. A child that was forked
# before the parent connected keeps everything.
#
# Output seen:
#   forked before the parent connected: the child reads [1, 2], another program reads [1, 2]; ok, ok
#   forked while the parent was connected: the child reads [1, 2], another program reads [1]; ok, ok
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet apsw==3.50.4.0

cat >"$folder/other.py" <<'PYTHON'
"""Another program: opens the database, reads it, and goes."""

import sys

import apsw

connection = apsw.Connection(sys.argv[1])
rows = [number for (number,) in connection.execute("SELECT number FROM rows ORDER BY number")]
[(check,)] = connection.execute("PRAGMA integrity_check")
connection.close()
print(rows, check, sep=";")
PYTHON

cat >"$folder/run.py" <<'PYTHON'
import os
import subprocess
import sys

import apsw

FOLDER = os.path.dirname(__file__)


def other(path):
    """What another program finds, after which it is gone."""
    found = subprocess.run(
        [sys.executable, f"{FOLDER}/other.py", path], capture_output=True, text=True, check=True
    )
    return found.stdout.strip().split(";")


def child(path, go, told):
    """Open a connection of one's own, wait until the parent has closed its own, and write."""
    connection = apsw.Connection(path)
    list(connection.execute("SELECT * FROM rows"))
    os.write(told, b".")
    os.read(go, 1)
    list(connection.execute("INSERT INTO rows VALUES (2)"))
    rows = [number for (number,) in connection.execute("SELECT number FROM rows ORDER BY number")]
    [(check,)] = connection.execute("PRAGMA integrity_check")
    seen, theirs = other(path)
    print(f"the child reads {rows}, another program reads {seen}; {check}, {theirs}", flush=True)
    os._exit(0)


def attempt(name, *, connected):
    """Fork a child before or after the parent has connected."""
    path = f"{FOLDER}/{name}.db"
    first = apsw.Connection(path)
    for statement in (
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE rows (number)",
        "INSERT INTO rows VALUES (1)",
    ):
        list(first.execute(statement))
    if not connected:
        first.close()
    go, told = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        child(path, go[0], told[1])
    os.read(told[0], 1)
    if connected:
        first.close()
    other(path)
    os.write(go[1], b".")
    os.waitpid(pid, 0)


print("forked before the parent connected: ", end="", flush=True)
attempt("before", connected=False)
print("forked while the parent was connected: ", end="", flush=True)
attempt("while", connected=True)
PYTHON

seen=$("$folder/venv/bin/python" "$folder/run.py")
echo "$seen"
expected='forked before the parent connected: the child reads [1, 2], another program reads [1, 2]; ok, ok
forked while the parent was connected: the child reads [1, 2], another program reads [1]; ok, ok'
[ "$seen" = "$expected" ]
