"""How an attempt is told: the name of its error, or GOT and what it gave."""

import ctypes
import errno
import platform

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
MACHINE = 0 if platform.machine() == "x86_64" else 1


def attempt(what, *args, **kwargs):
    try:
        got = what(*args, **kwargs)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error)) if error.errno else str(error)
    except ValueError:  # what Python makes of EPERM for limits
        return "ValueError"
    return f"GOT {got!r}"[:300]


def call(numbers, *args):
    """A system call by its numbers on x86-64 and on arm64."""
    number = numbers[MACHINE] if isinstance(numbers, tuple) else numbers
    if number is None:
        return "ENOSYS"
    words = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    got = _libc.syscall(ctypes.c_long(number), *words)
    if got == -1:
        return errno.errorcode[ctypes.get_errno()]
    return f"GOT {got}"


def outcomes(attack, given):
    told = attack(given)
    return told if isinstance(told, list) else [told]
