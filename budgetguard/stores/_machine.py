"""The machine that a file is on: its clock, its boot, its name, and what kind of disk a path is on."""

import functools
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MOUNTS = Path("/proc/self/mountinfo")
_MOUNT_FIELDS = 5
_NETWORKS = frozenset(
    {
        "9p",
        "acfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "davfs",
        "fuse.blobfuse",
        "fuse.blobfuse2",
        "fuse.ceph-fuse",
        "fuse.cephfs",
        "fuse.davfs",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.goofys",
        "fuse.juicefs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb2",
        "smb3",
        "smbfs",
    }
)

# Read once: a library that freezes time for a test would freeze the account's debits.
_gettime = time.clock_gettime if sys.platform != "win32" else lambda _: time.monotonic()
# It goes on while the machine is suspended, and is the same for all its processes.
_SINCE_BOOT: int = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", 0))


def since_boot() -> float:
    """Seconds by the clock that all processes of the machine share."""
    return _gettime(_SINCE_BOOT)


@functools.cache
def boot_id() -> str:
    """Another one after each start of the machine; empty if the system does not tell."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        pass
    for name in ("kern.bootsessionuuid", "kern.boot_id"):  # macOS, FreeBSD
        try:
            told = subprocess.run(  # noqa: S603
                ["/usr/sbin/sysctl" if sys.platform == "darwin" else "/sbin/sysctl", "-n", name],
                capture_output=True,
                text=True,
                timeout=1,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return told.stdout.strip()
    return ""


def host() -> str:
    """The machine's name, for people and to tell machines apart."""
    return platform.node()


def network_file_system(path: str) -> str | None:
    """What kind of network file system a path is on; None if it is on none, or nobody can tell.

    The list of mounts is asked, not the file system, which may hang.
    """
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return None
    kind, longest = None, -1
    for line in lines:
        mount, _, rest = line.partition(b" - ")
        fields = mount.split(b" ")
        if len(fields) < _MOUNT_FIELDS or not rest:
            continue
        point = os.fsdecode(fields[4].decode("unicode_escape").encode("latin-1"))
        if _is_below(path, point) and len(point) >= longest:
            longest, kind = len(point), os.fsdecode(rest.split(b" ")[0])
    return kind if kind in _NETWORKS else None


def _is_below(path: str, point: str) -> bool:
    return point in {"/", path} or path.startswith(f"{point}/")
