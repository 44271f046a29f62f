"""The system calls that a wall refuses, as a program of the kernel's packet filter (seccomp).

A program of our own, not libseccomp: that library has no kept Python package and is absent from small images, and what is needed of
it is a table of numbers and a jump for each. Calls from number 424 on are the same on every architecture and do not exist for a
program (ENOSYS, for which C libraries have the older call): among them are clone3, whose flags a filter cannot see,
io_uring, which does what calls do without making them, pidfd_send_signal, the new mount calls, and whatever a kernel adds.
"""

from __future__ import annotations

import errno
import platform
import struct
from typing import NamedTuple

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH of linux/audit.h, in the order of the numbers below; -1 where an architecture lacks a call."""

# fmt: off
REFUSED = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
    # the network: also what a network namespace does not hold, such as AF_VSOCK; socketpair stays
    "socket": (41, 198),
    # other namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # memory that RLIMIT_AS does not count, and that outlives a process
    "memfd_create": (319, 279), "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    # the caller's keys, and parts of the kernel that are large and that no program needs
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "fanotify_init": (300, 262), "io_setup": (206, 0), "personality": (135, 92), "syslog": (103, 116),
    "acct": (163, 89),
}
REFUSED_ALONE = {
    # one process, one program
    "clone": (56, 220), "fork": (57, -1), "vfork": (58, -1), "execve": (59, 221), "execveat": (322, 281),
    # signals, the group of processes by which a run is ended, and the priority of others
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "setsid": (112, 157), "setpgid": (109, 154), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    # changes of files that Landlock does not hold, or not in its first version
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, -1), "fchown": (93, 55), "lchown": (94, -1),
    "fchownat": (260, 54), "utime": (132, -1), "utimes": (235, -1), "futimesat": (261, -1), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "truncate": (76, 45), "inotify_init": (253, -1), "inotify_init1": (294, 26),
}
"""Refused in addition where the process shares the caller's namespaces."""
# fmt: on


class _Rule(NamedTuple):
    """A call is refused if its argument of this number, masked, is one of ``values``; with ``but`` if it is none of them."""

    numbers: tuple[int, int]
    argument: int
    mask: int
    values: tuple[int, ...]
    but: bool = False


_ALL = 0xFFFFFFFF
_NEW_NAMESPACES = 0x7E020000
_TRUNCATES_UNWRITTEN = 0o1003, (0o1000,)
"""O_TRUNC without O_WRONLY or O_RDWR empties a file that was opened for reading."""
RULES = {"clone": _Rule((56, 220), 0, _NEW_NAMESPACES, (0,), but=True)}
RULES_ALONE = {
    "open": _Rule((2, -1), 1, *_TRUNCATES_UNWRITTEN),
    "openat": _Rule((257, 56), 2, *_TRUNCATES_UNWRITTEN),
    "prlimit64": _Rule((302, 261), 0, _ALL, (0,), but=True),  # of another process
    "prctl": _Rule((157, 167), 0, _ALL, (1,)),  # PR_SET_PDEATHSIG
    "fcntl": _Rule((72, 25), 1, _ALL, (8, 15)),  # F_SETOWN, F_SETOWN_EX: SIGIO ends whom it is sent to
    "ioctl": _Rule((16, 29), 1, _ALL, (0x8901, 0x8902)),  # FIOSETOWN, SIOCSPGRP: likewise
}
_FIRST_COMMON, _CLOSE_RANGE = 424, 436

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data."""


def known_machine() -> bool:
    """Whether the numbers of this machine's system calls are known."""
    return platform.machine() in _ARCHITECTURES


def filter_program(alone: bool, machine: str = "") -> bytes:
    """The filter as an array of struct sock_filter (8 bytes each); ``alone`` where it is the wall itself, not a part of one."""
    column = list(_ARCHITECTURES).index(machine or platform.machine())
    code = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, list(_ARCHITECTURES.values())[column]), (_RETURN, 0, 0, _KILL)]
    code += [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 3, _FIRST_COMMON), (_EQUAL, 0, 1, _CLOSE_RANGE)]
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for name, numbers in (REFUSED | REFUSED_ALONE if alone else REFUSED).items():
        reason = errno.EAGAIN if name in ("clone", "fork", "vfork") else errno.EPERM
        if numbers[column] >= 0:
            code += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ERRNO | reason)]
    for rule in (RULES_ALONE if alone else RULES).values():
        if rule.numbers[column] >= 0:
            body = _argument(rule)
            code += [(_EQUAL, 0, len(body), rule.numbers[column]), *body]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _argument(rule: _Rule) -> list[tuple[int, int, int, int]]:
    """The instructions for a call whose number matched; they return in any case. The low half of an argument is read."""
    found, other = (_ALLOW, _ERRNO | errno.EPERM) if rule.but else (_ERRNO | errno.EPERM, _ALLOW)
    tests = [(_EQUAL, len(rule.values) - at, 0, value) for at, value in enumerate(rule.values)]
    return [
        (_LOAD, 0, 0, _ARGUMENTS + 8 * rule.argument),
        (_AND, 0, 0, rule.mask),
        *tests,
        (_RETURN, 0, 0, other),
        (_RETURN, 0, 0, found),
    ]
