"""The filter of system calls, executed as the kernel executes it, for each ABI of this machine."""

import ctypes
import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.work.local.seccomp import (
    NEW_NAMESPACES,
    NOT_THERE,
    OUTSIDE_FAMILIES,
    REFUSED,
    TERMINAL_INPUT,
    make_program,
    unknown,
)

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers are x86-64's")

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
X32 = 0x40000000

PROGRAM = make_program()


def judge(architecture: int, number: int, *arguments: int) -> int:
    """Return the errno that a system call gets, 0 if it may pass: classic BPF, as it is needed."""
    filled = (*arguments, *[0] * 6)[:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *filled)
    instructions = list(struct.iter_unpack("<HBBI", PROGRAM))
    at = accumulator = 0
    while True:
        code, yes, no, k = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x54:
                accumulator &= k
            case 0x05:
                at += k
            case 0x15:
                at += yes if accumulator == k else no
            case 0x35:
                at += yes if accumulator >= k else no
            case 0x25:
                at += yes if accumulator > k else no
            case 0x45:
                at += yes if accumulator & k else no
            case 0x06:
                return 0 if k == ALLOW else k - ERRNO
            case _:
                raise AssertionError(f"instruction {code:#x}")


def number(name: str, architecture: int) -> int:
    library = ctypes.CDLL("libseccomp.so.2")
    found: int = library.seccomp_syscall_resolve_name_arch(
        ctypes.c_uint32(architecture), name.encode()
    )
    return found


@pytest.mark.parametrize("architecture", [X86_64, I386])
@pytest.mark.parametrize("name", [*REFUSED, *NOT_THERE])
def test_each_call_of_the_list_is_refused_for_64_and_32_bit_programs(
    name: str, architecture: int
) -> None:
    found = number(name, architecture)
    if found < 0:
        pytest.skip("this architecture, or this libseccomp, has no such call")
    wanted = errno.ENOSYS if name in NOT_THERE else errno.EPERM
    assert judge(architecture, found) == wanted


def test_libseccomp_knows_what_is_to_be_refused() -> None:
    assert set(unknown([*REFUSED, *NOT_THERE])) <= {"open_tree_attr"}


@pytest.mark.parametrize("architecture", [X86_64, I386])
def test_a_new_namespace_is_refused_and_a_new_thread_is_not(architecture: int) -> None:
    clone = number("clone", architecture)
    assert judge(architecture, clone, 0x3D0F00) == judge(architecture, clone, 17) == 0
    for flag in NEW_NAMESPACES:
        assert judge(architecture, clone, flag | 17) == errno.EPERM


@given(high=st.integers(0, 2**32 - 1), one=st.sampled_from(TERMINAL_INPUT))
def test_typing_into_a_terminal_is_refused_whatever_the_upper_bits_are(high: int, one: int) -> None:
    assert judge(X86_64, number("ioctl", X86_64), 0, high << 32 | one) == errno.EPERM
    assert judge(X86_64, number("ioctl", X86_64), 0, 0x5401) == 0


@given(high=st.integers(0, 2**32 - 1))
def test_a_socket_that_no_namespace_holds_is_refused_and_others_are_not(high: int) -> None:
    for family in range(1, 46):
        wanted = errno.EPERM if family in OUTSIDE_FAMILIES else 0
        assert judge(X86_64, number("socket", X86_64), high << 32 | family) == wanted


@given(call=st.integers(0, 1000))
def test_no_call_of_another_abi_passes(call: int) -> None:
    assert judge(X86_64, X32 | call) == errno.EPERM
    assert judge(0xC00000B7, call) == errno.EPERM


def test_what_programs_live_on_passes() -> None:
    for name in ("read", "write", "openat", "execve", "mmap", "futex", "wait4", "exit_group"):
        for architecture in (X86_64, I386):
            assert judge(architecture, number(name, architecture)) == 0
