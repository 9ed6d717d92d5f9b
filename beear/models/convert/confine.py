"""Shuts in the process that reads a stranger's file: no network, no other program, and limits; called within that process."""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1

# By machine: the kernel's name of it, its number for seccomp, and its numbers for the calls that are refused. In this order:
# socket, connect, execve, execveat, ptrace, process_vm_writev, io_uring_setup (which opens sockets too).
CALLS = {
    "x86_64": (0xC000003E, 317, (41, 42, 59, 322, 101, 311, 425)),
    "aarch64": (0xC00000B7, 277, (198, 203, 221, 281, 117, 271, 425)),
}
# The second set of numbers that x86_64 has for its calls (x32) starts here.
X32 = 0x40000000
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06


def own_network() -> bool:
    """Move this process, which must have one thread, into a network without any way out; say whether the kernel allowed it."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET) == 0:
        return True
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    # Files that this process makes then belong to whom they would have belonged to.
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with contextlib.suppress(OSError):
            Path("/proc/self", name).write_text(text)
    return True


def refuse_calls() -> bool:
    """Have the kernel refuse sockets and other programs to every thread of this process; say whether it could be asked to."""
    libc = ctypes.CDLL(None, use_errno=True)
    machine = CALLS.get(platform.machine())
    if machine is None or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    architecture, seccomp, refused = machine
    steps = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for code, number in ((AT_LEAST, X32), *((EQUAL, number) for number in refused)):
        steps += [(code, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    program = b"".join(struct.pack("HBBI", *step) for step in [*steps, (RETURN, 0, 0, ALLOW)])
    kept = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: how many steps, and where they are.
    filtered = struct.pack("HP", len(steps) + 1, ctypes.addressof(kept))
    return bool(libc.syscall(seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, filtered) == 0)


def die_with_parent() -> None:
    """End this process when the one that started it ends, and leave no memory image behind when this one crashes."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit(memory: int, written: int) -> None:
    """Allow ``memory`` bytes of addresses beyond those that the libraries take already, and files of ``written`` bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    whole = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (whole, whole))
    resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
