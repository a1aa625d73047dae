"""The seccomp filter of every cell: an allow-list of system calls, compiled from `sandbox.syscalls`.

A filter is a program in classic BPF that the kernel runs before a system call (seccomp(2); the machine is described in
Documentation/networking/filter.rst). It sees `struct seccomp_data` (linux/seccomp.h): the call's number, the
architecture and six arguments of 64 bits. It follows no pointer, so what a call passes in memory can't be judged.

The answer is "go on" or an error number, never a signal: runtimes probe what a kernel can do, and must hear an answer.
Newer kernels exempt two calls of x86-64 from every filter, uretprobe and uprobe; these do nothing for who makes them.

    1. another architecture (i386's `int 0x80`)       EPERM
    2. on x86-64: a call of the x32 table             EPERM
    3. a call that is newer than the table, clone3    ENOSYS, libcs fall back to an older one
    4. on the list                                    allowed, maybe only with listed arguments
    5. everything else                                EPERM

Numbers are found by a tree of comparisons. Since Linux 5.11 the kernel also remembers, per filter, which calls are
allowed whatever their arguments, and does not run the program for these.
"""

import errno
import platform
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from smcp.kernel import errors
from smcp.sandbox import syscalls

ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_* (linux/audit.h): machine, 64 bits, little-endian."""
X32: Final = 0x40000000
"""__X32_SYSCALL_BIT (asm/unistd.h of x86)."""

ALLOW: Final = 0x7FFF0000
"""SECCOMP_RET_ALLOW (linux/seccomp.h)."""
_ERRNO: Final = 0x00050000
REFUSE: Final = _ERRNO | errno.EPERM
UNKNOWN: Final = _ERRNO | errno.ENOSYS

# Operations (linux/bpf_common.h): BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_ALU|AND|K, BPF_RET|K.
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16
_FAR: Final = 255
"""A conditional jump skips at most so many instructions."""
_MOST: Final = 4096
"""BPF_MAXINSNS (linux/bpf_common.h)."""


class Instruction(NamedTuple):
    """`struct sock_filter` (linux/filter.h). Jumps count the instructions that they skip: forward only."""

    code: int
    yes: int
    no: int
    operand: int


Code = list[Instruction]


def program(machine: str | None = None) -> bytes:
    """The filter for `machine` (`uname -m`; default: this one), as bubblewrap's `--seccomp` reads it.

    Raises `errors.SandboxMissing` for a machine whose system calls are not listed.
    """
    name = machine or platform.machine()
    if name not in ARCHITECTURES:
        raise errors.SandboxMissing(f"There is no list of system calls for the processor {name!r}.")
    code = [
        *_load(_ARCHITECTURE),
        Instruction(_EQUAL, 1, 0, ARCHITECTURES[name]),
        *_answer(REFUSE),
        *_load(_NUMBER),
        *_tree(_runs(name)),
    ]
    assert len(code) <= _MOST
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _runs(machine: str) -> list[tuple[int, Code]]:
    """What is answered to which number: a list of (first number, code), each up to the next one's first."""
    numbers = syscalls.numbers(machine)
    beyond = max(numbers.values()) + 1
    table = [_answer(REFUSE)] * beyond
    for name, number in numbers.items():
        if name in syscalls.ALLOWED:
            table[number] = _answer(ALLOW)
        elif name in syscalls.MISSING:
            table[number] = _answer(UNKNOWN)
        elif name in syscalls.RULES:
            table[number] = _rule(syscalls.RULES[name])
    answers = [*enumerate(table), (beyond, _answer(UNKNOWN))]
    if machine == "x86_64":
        answers.append((X32, _answer(REFUSE)))
    return [one for index, one in enumerate(answers) if index == 0 or one[1] != answers[index - 1][1]]


def _tree(runs: Sequence[tuple[int, Code]]) -> Code:
    """A balanced tree of comparisons with the number, each leaf one run's code."""
    if len(runs) == 1:
        return runs[0][1]
    middle = len(runs) // 2
    below, above = _tree(runs[:middle]), _tree(runs[middle:])
    first = runs[middle][0]
    # The shorter half comes first, so that the jump over it stays short.
    assert min(len(below), len(above)) <= _FAR
    if len(below) <= len(above):
        return [Instruction(_AT_LEAST, len(below), 0, first), *below, *above]
    return [Instruction(_AT_LEAST, 0, len(above), first), *above, *below]


def _rule(lines: Sequence[Sequence[syscalls.Test]]) -> Code:
    """Allowed if every test of one line holds."""
    return [*(instruction for line in lines for instruction in _line(line)), *_answer(REFUSE)]


def _line(tests: Sequence[syscalls.Test]) -> Code:
    """Allows if every test holds, else goes on behind itself."""
    code = _answer(ALLOW)
    for test in reversed(tests):
        code = [*_test(test, len(code)), *code]
    return code


def _test(test: syscalls.Test, skipped: int) -> Code:
    """Goes on behind itself if the test holds, else `skipped` instructions further."""
    code = _load(_ARGUMENTS + 8 * test.argument + (4 if test.high else 0))
    if test.mask != syscalls.LOW:
        code.append(Instruction(_AND, 0, 0, test.mask))
    last = len(test.values) - 1
    assert skipped + last <= _FAR
    for index, value in enumerate(test.values):
        found, missed = last - index, 0
        if not test.among:
            found += skipped
        elif index == last:
            missed = skipped
        code.append(Instruction(_EQUAL, found, missed, value))
    return code


def _load(offset: int) -> Code:
    # Both machines are little-endian: the low half of an argument comes first.
    return [Instruction(_LOAD, 0, 0, offset)]


def _answer(value: int) -> Code:
    return [Instruction(_RETURN, 0, 0, value)]
