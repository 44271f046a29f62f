"""The numbers of system calls against libseccomp's, and the filter against a plain reading of its instructions."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import struct

import pytest

from tutelage.sandbox import filter as wall_filter
from tutelage.sandbox.filter import REFUSED, REFUSED_ALONE, RULES, RULES_ALONE, filter_program

TOKENS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


@pytest.mark.parametrize(("column", "machine"), list(enumerate(TOKENS)))
def test_numbers_are_those_of_libseccomp(column: int, machine: str) -> None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("no libseccomp to compare with")
    resolve = library.seccomp_syscall_resolve_name_arch
    for name, numbers in (REFUSED | REFUSED_ALONE).items():
        known = resolve(ctypes.c_uint32(TOKENS[machine]), name.encode())
        assert numbers[column] == known or (numbers[column] == -1 and known < 0), name
    for name, rule in (RULES | RULES_ALONE).items():
        known = resolve(ctypes.c_uint32(TOKENS[machine]), name.encode())
        assert rule.numbers[column] == known or (rule.numbers[column] == -1 and known < 0), name


def decide(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = (0,) * 6) -> int:
    """What the kernel would return: the instructions of the filter, one by one."""
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *arguments)
    code, at, accumulator = list(struct.iter_unpack("=HBBI", program)), 0, 0
    while True:
        what, yes, no, value = code[at]
        at += 1
        if what == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif what == 0x54:
            accumulator &= value
        elif what == 0x06:
            return value
        else:
            at += yes if (accumulator == value if what == 0x15 else accumulator >= value) else no


ALLOW, KILL = 0x7FFF0000, 0x80000000


@pytest.mark.parametrize(("column", "machine"), list(enumerate(TOKENS)))
def test_what_the_filter_decides(column: int, machine: str) -> None:
    def told(alone: bool, number: int, *arguments: int) -> int:
        padded = (*arguments, *(0,) * (6 - len(arguments)))
        return decide(filter_program(alone, machine), TOKENS[machine], number, padded)

    refused = 0x50000 | errno.EPERM
    for name, numbers in REFUSED.items():
        if numbers[column] >= 0:
            assert told(False, numbers[column]) == told(True, numbers[column]) == refused, name
    for name, numbers in REFUSED_ALONE.items():
        if numbers[column] >= 0:
            again = errno.EAGAIN if name in ("clone", "fork", "vfork") else errno.EPERM
            assert told(True, numbers[column]) == 0x50000 | again, name
            assert told(False, numbers[column]) == ALLOW, name
    for number in (424, 425, 435, 437, 999, 0x40000000 + 1, 0xFFFFFFFF):  # from pidfd_send_signal to x32
        assert told(False, number) == 0x50000 | errno.ENOSYS
    assert told(True, 436) == ALLOW  # close_range
    assert decide(filter_program(False, machine), 0x40000003, 1) == KILL  # i386
    read = {"x86_64": 0, "aarch64": 63}[machine]
    assert told(True, read) == ALLOW
    clone, openat, prlimit, prctl, fcntl, ioctl = (
        (RULES | RULES_ALONE)[name].numbers[column]
        for name in ("clone", "openat", "prlimit64", "prctl", "fcntl", "ioctl")
    )
    assert told(False, clone, 0x3D0F00) == ALLOW  # a thread
    assert told(False, clone, 0x10000011) == refused  # a namespace of users
    assert told(True, openat, 0, 0, 0o1000) == refused
    assert told(True, openat, 0, 0, 0o1001) == told(True, openat, 0, 0, 0) == ALLOW  # what Landlock decides
    assert (told(True, prlimit, 0), told(True, prlimit, 7)) == (ALLOW, refused)
    assert (told(True, prctl, 1), told(True, prctl, 15)) == (refused, ALLOW)
    assert [told(True, fcntl, 0, command) for command in (1, 8, 15)] == [ALLOW, refused, refused]
    assert [told(True, ioctl, 0, command) for command in (0x5401, 0x8901, 0x8902)] == [ALLOW, refused, refused]


def test_an_unknown_machine_is_known_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wall_filter.known_machine()
    monkeypatch.setattr(wall_filter.platform, "machine", lambda: "riscv64")
    assert not wall_filter.known_machine()
