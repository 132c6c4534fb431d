"""Executes a program under a filter that kills it if it makes a system call that is not known to the filter.

    confined.py PROGRAM ARGUMENT...

Linux 6.11 to 6.13 would kill a program with uretprobes under such a filter.
"""

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
KILL_PROCESS = 0x80000000
ALLOW = 0x7FFF0000

# Opcodes of classic BPF: load a word of the data, jump if greater or equal, return.
LOAD, AT_LEAST, RETURN = 0x20, 0x35, 0x06
NUMBER = 0

# x86-64 has uretprobe (335) and uprobe (336) here, aarch64 nothing.
GAP_BEGIN, GAP_END = 335, 424
# mseal(2) of Linux 6.10 is the last call that is known.
UNKNOWN = 463

FILTER = (
    (LOAD, 0, 0, NUMBER),
    (AT_LEAST, 3, 0, UNKNOWN),
    (AT_LEAST, 1, 0, GAP_END),
    (AT_LEAST, 1, 0, GAP_BEGIN),
    (RETURN, 0, 0, ALLOW),
    (RETURN, 0, 0, KILL_PROCESS),
)


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def main():
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = b"".join(struct.pack("HBBI", *instruction) for instruction in FILTER)
    program = Program(len(FILTER), instructions)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
