"""Runs a program as Linux 3.10 (CentOS 7) would: every system call that is newer does not exist.

usage: old_kernel.py PROGRAM [ARGUMENT...]; on x86-64 and aarch64. What the program starts lives there, too.
Its kernel calls itself 2.6.40 and up (personality(2)). Calls of old that learnt something since are the machine's own.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# The first system call that came after Linux 3.13: sched_setattr. Numbers only grow.
FIRST_NEW = {"x86_64": 314, "aarch64": 274}[platform.machine()]
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
UNAME26 = 0x0020000
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.ENOSYS


def instruction(code, true, false, value):
    """One of the classic packet filter's (struct sock_filter)."""
    return struct.pack("HBBI", code, true, false, value)


# Load the number; is it new? Then ENOSYS.
FILTER = b"".join(
    [
        instruction(0x20, 0, 0, 0),
        instruction(0x35, 0, 1, FIRST_NEW),
        instruction(0x06, 0, 0, REFUSE),
        instruction(0x06, 0, 0, ALLOW),
    ]
)


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def main():
    libc = ctypes.CDLL(None, use_errno=True)
    argument = ctypes.c_ulong
    program = Program(len(FILTER) // 8, FILTER)
    libc.personality(argument(UNAME26))
    # Root needs no promise, and a program that changes its user must be able to.
    promise = 0 if os.geteuid() == 0 else libc.prctl(PR_SET_NO_NEW_PRIVS, argument(1), *[argument(0)] * 3)
    if promise != 0 or libc.prctl(PR_SET_SECCOMP, argument(SECCOMP_MODE_FILTER), ctypes.byref(program)) != 0:
        sys.exit(f"old_kernel.py: {os.strerror(ctypes.get_errno())}")
    os.execv(sys.argv[1], sys.argv[1:])


main()
