"""What an app may do: nothing that init may and it need not (capabilities(7), prctl(2)).

An app that is not root has no capability and cannot get one. An app that is root keeps what images of Docker's rely on to prepare their folders and to become somebody else,
and nothing that leads out of its root, to devices or to init.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITIES = range(64)
_OF_ROOT = {0, 1, 3, 4, 5, 6, 7, 8, 10}
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE (linux/capability.h): Docker's own without MKNOD, NET_RAW, SYS_CHROOT, SETFCAP, AUDIT_WRITE."""
_libc = ctypes.CDLL(None, use_errno=True)


def give_up(user: tuple[int, int, Sequence[int]] | None) -> None:
    """Become (uid, gid, groups), None: stay who we are; without capabilities, and with no program that would give some. For a child between fork and exec. Raises OSError."""
    kept = _OF_ROOT if user is None or user[0] == 0 else set()
    for capability in _CAPABILITIES:
        if capability not in kept:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # those that this kernel does not know are refused, and need not be dropped
    if user is not None:
        uid, gid, groups = user
        os.setgroups(list(groups))
        os.setgid(gid)
        os.setuid(uid)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs cannot be set")


def is_mapped(uid: int) -> bool:
    """Whether this user exists in our user namespace: in a sandboxed process one alone does."""
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(inside <= uid < inside + count for inside, _, count in ranges)
