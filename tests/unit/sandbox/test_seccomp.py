"""The filter as a program: run by a small simulator, and compared with the list that it was compiled from."""

import errno
import platform
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checks import tree
from smcp.kernel import errors
from smcp.sandbox import seccomp, syscalls

MACHINES: Final = tuple(seccomp.ARCHITECTURES)
WHOLE: Final = 0xFFFFFFFFFFFFFFFF
HEADERS: Final = {"x86_64": "asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
PROGRAMS: Final = {machine: list(struct.iter_unpack("=HBBI", seccomp.program(machine))) for machine in MACHINES}
NUMBERS: Final = {machine: syscalls.numbers(machine) for machine in MACHINES}
LAST: Final = 450

NEVER: Final = """
    _sysctl acct add_key adjtimex bpf capset chroot clock_adjtime clock_settime delete_module fanotify_init
    fanotify_mark finit_module fsconfig fsmount fsopen fspick init_module io_setup io_uring_enter io_uring_register
    io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind memfd_secret
    migrate_pages modify_ldt mount mount_setattr move_mount move_pages name_to_handle_at nfsservctl
    open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise process_vm_readv
    process_vm_writev ptrace quotactl quotactl_fd reboot request_key seccomp setdomainname sethostname setns
    settimeofday swapoff swapon sync syncfs syslog umount2 unshare uselib userfaultfd vhangup vmsplice
"""

# linux/sched.h, <sys/socket.h>, asm-generic/ioctls.h: written down a second time, not taken from the list.
CLONE_NEW: Final = (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
THREAD: Final = 0x3D0F00
"""The flags that pthread_create(3) of glibc gives to clone."""


def walk(machine: str, number: int, arguments: Sequence[int] = (), architecture: int | None = None) -> tuple[int, int]:
    """What the filter of `machine` answers, and after how many instructions: a simulator of classic BPF, as far as
    filters use it."""
    padded = [argument & WHOLE for argument in (*arguments, 0, 0, 0, 0, 0, 0)][:6]
    arch = seccomp.ARCHITECTURES[machine] if architecture is None else architecture
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0x7F0000001000, *padded)
    at = held = steps = 0
    while True:
        code, yes, no, operand = PROGRAMS[machine][at]
        at += 1
        steps += 1
        match code:
            case 0x20:
                assert operand % 4 == 0
                (held,) = struct.unpack_from("<I", data, operand)
            case 0x54:
                held &= operand
            case 0x15:
                at += yes if held == operand else no
            case 0x35:
                at += yes if held >= operand else no
            case 0x06:
                return operand, steps
            case _:
                raise AssertionError(f"no such operation: {code:#x}")


def answer(machine: str, number: int, arguments: Sequence[int] = (), architecture: int | None = None) -> int:
    """What the filter of `machine` answers."""
    return walk(machine, number, arguments, architecture)[0]


def listed(machine: str, number: int, arguments: Sequence[int]) -> int:
    """What the list says: read straight from the data."""
    names = {one: name for name, one in NUMBERS[machine].items()}
    name = names.get(number, "")
    if (machine == "x86_64" and number >= 0x40000000) or (number <= LAST and not name):
        return seccomp.REFUSE
    if name in syscalls.MISSING or number > LAST:
        return seccomp.UNKNOWN
    lines = syscalls.RULES.get(name, ())
    holds = any(all(_holds(test, arguments) for test in line) for line in lines)
    return seccomp.ALLOW if name in syscalls.ALLOWED or holds else seccomp.REFUSE


def _holds(test: syscalls.Test, arguments: Sequence[int]) -> bool:
    argument = arguments[test.argument] & WHOLE
    half = argument >> 32 if test.high else argument & 0xFFFFFFFF
    return (half & test.mask in test.values) == test.among


def allowed(name: str, *arguments: int) -> bool:
    """Whether a call is let through; on both machines alike, if both have it."""
    found = {answer(one, NUMBERS[one][name], arguments) == seccomp.ALLOW for one in MACHINES if name in NUMBERS[one]}
    assert len(found) == 1, name
    return found.pop()


@pytest.mark.requirement("sandbox:seccomp:list")
@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_is_answered_as_the_list_says(machine: str) -> None:
    beyond = (*range(1000), 0x3FFFFFFF, *range(0x40000000, 0x40000400), 0x80000000, 0xFFFFFFFF)
    for number in beyond:
        for arguments in ((0,) * 6, (WHOLE,) * 6, (1,) * 6, (0xFFFFFFFF00000000,) * 6):
            assert answer(machine, number, arguments) == listed(machine, number, arguments), (number, arguments)


_VALUES: Final = sorted(
    {value for lines in syscalls.RULES.values() for line in lines for t in line for value in t.values}
)
_WORDS: Final = st.sampled_from(_VALUES) | st.integers(0, 64) | st.integers(0, 0xFFFFFFFF)
_BITS: Final = st.integers(0, 63).map(lambda bit: 1 << bit)
_HIGH: Final = st.just(0) | st.integers(0, 0xFFFFFFFF)
_ARGUMENT: Final = st.tuples(_WORDS, _HIGH, st.just(0) | _BITS).map(
    lambda parts: (parts[1] << 32 | parts[0]) ^ parts[2]
)


@pytest.mark.requirement("sandbox:seccomp:arguments")
@pytest.mark.parametrize("machine", MACHINES)
@settings(max_examples=600, deadline=None)
@given(name=st.sampled_from(sorted(syscalls.RULES)), arguments=st.lists(_ARGUMENT, min_size=6, max_size=6))
def test_argument_rules_answer_as_the_list_says(machine: str, name: str, arguments: list[int]) -> None:
    number = NUMBERS[machine].get(name)
    if number is not None:
        assert answer(machine, number, arguments) == listed(machine, number, arguments)


@pytest.mark.requirement("sandbox:seccomp:list")
def test_what_leads_out_of_a_cell_or_into_the_host_is_never_listed() -> None:
    assert set(NEVER.split()) <= set(NUMBERS["x86_64"])
    for name in NEVER.split():
        assert name not in syscalls.ALLOWED | syscalls.RULES.keys() | syscalls.MISSING
        assert not allowed(name)


@pytest.mark.requirement("sandbox:seccomp:list")
def test_every_listed_name_is_a_system_call_and_is_listed_once() -> None:
    assert syscalls.ALLOWED | syscalls.RULES.keys() | syscalls.MISSING <= NUMBERS["x86_64"].keys()
    assert not syscalls.ALLOWED & syscalls.RULES.keys()
    assert not syscalls.MISSING & (syscalls.ALLOWED | syscalls.RULES.keys())


@pytest.mark.requirement("sandbox:seccomp:list")
def test_what_is_newer_than_the_list_does_not_exist() -> None:
    for machine in MACHINES:
        assert answer(machine, NUMBERS[machine]["clone3"]) == 0x00050000 | errno.ENOSYS
        assert answer(machine, LAST + 1) == 0x00050000 | errno.ENOSYS
        assert max(NUMBERS[machine].values()) == LAST


@pytest.mark.requirement("sandbox:seccomp:architecture")
def test_another_architectures_calls_are_refused() -> None:
    i386, arm, x32 = 0x40000003, 0x40000028, 0x40000000
    for machine in MACHINES:
        for other in (i386, arm, 0, *(set(seccomp.ARCHITECTURES.values()) - {seccomp.ARCHITECTURES[machine]})):
            for number in range(LAST):
                assert answer(machine, number, architecture=other) == seccomp.REFUSE
    assert {answer("x86_64", x32 | number) for number in range(LAST + 200)} == {seccomp.REFUSE}


@pytest.mark.requirement("sandbox:seccomp:arguments")
def test_threads_and_processes_are_made_and_namespaces_are_not() -> None:
    sigchld, vfork = 17, 0x4100
    assert allowed("clone", sigchld)
    assert allowed("clone", vfork | sigchld)
    assert allowed("clone", THREAD)
    for flag in CLONE_NEW:
        assert not allowed("clone", flag | sigchld)
        assert not allowed("clone", flag | THREAD)
    assert not allowed("clone", 1 << 32 | sigchld)


@pytest.mark.requirement("sandbox:seccomp:arguments")
def test_sockets_are_local_tcp_udp_or_routing_questions() -> None:
    cloexec, nonblock = 0o2000000, 0o4000
    unix, inet, inet6, netlink = 1, 2, 10, 16
    stream, datagram, raw, packet = 1, 2, 3, 5
    good = {(unix, stream, 0), (unix, datagram, 0), (unix, packet, 0), (netlink, raw, 0), (netlink, datagram, 0)}
    for family in (inet, inet6):
        good |= {(family, kind, way) for kind in (stream, datagram) for way in (0, 6, 17)}
    for family in range(64):
        for kind in range(12):
            for way in (0, 1, 6, 12, 16, 17, 33, 132, 255, 262):
                wanted = (family, kind, 0 if family == unix else way) in good
                assert allowed("socket", family, kind | cloexec | nonblock, way) == wanted, (family, kind, way)
    assert allowed("socketpair", unix, stream)
    assert not allowed("socketpair", inet, stream)
    # An int's upper half is undefined, and the kernel does not look at it.
    assert allowed("socket", 0xABCD00000002, 1)
    assert not allowed("socket", 0xABCD00000026, 5)


@pytest.mark.requirement("sandbox:seccomp:arguments")
def test_terminals_take_no_injected_input_and_no_line_discipline() -> None:
    tcgets, fionread, window = 0x5401, 0x541B, 0x5413
    assert all(allowed("ioctl", 0, request) for request in (tcgets, fionread, window))
    tiocsti, tioclinux, tiocsetd, tiocconsole, sioc_bridge, kvm = 0x5412, 0x541C, 0x5423, 0x541D, 0x89A0, 0xAE00
    refused = (tiocsti, tioclinux, tiocsetd, tiocconsole, sioc_bridge, kvm)
    assert not any(allowed("ioctl", 0, request) for request in refused)
    assert not any(allowed("ioctl", 0, 0xFFFF00000000 | request) for request in refused)


@pytest.mark.requirement("sandbox:seccomp:arguments")
def test_options_that_weaken_the_walls_are_refused() -> None:
    assert allowed("personality", 0)
    assert allowed("personality", 0xFFFFFFFF)
    assert not any(allowed("personality", 1 << bit) for bit in range(32))
    set_seccomp, set_mm, ambient, speculation, ptracer = 22, 35, 47, 53, 0x59616D61
    assert allowed("prctl", 15)
    assert not any(allowed("prctl", one) for one in (set_seccomp, set_mm, ambient, speculation, ptracer))
    assert allowed("mknodat", 0, 0, 0o010644)
    assert not any(allowed("mknodat", 0, 0, kind | 0o644) for kind in (0o020000, 0o060000))
    assert not any(allowed("mknod", 0, kind | 0o644) for kind in (0o020000, 0o060000))
    assert allowed("mmap", 0, 4096, 7, 0x22)
    assert not allowed("mmap", 0, 4096, 7, 0x40022)
    assert not allowed("memfd_create", 0, 4)
    assert allowed("setsockopt", 0, 6, 1)
    assert not allowed("setsockopt", 0, 6, 31)
    assert not any(allowed("setsockopt", 0, 1, one) for one in (26, 50, 51, 52))


@pytest.mark.requirement("sandbox:seccomp:list")
@pytest.mark.parametrize("machine", MACHINES)
def test_an_answer_takes_a_few_comparisons_in_a_program_that_the_kernel_takes(machine: str) -> None:
    program = PROGRAMS[machine]
    assert len(program) < 4096
    for at, (code, yes, no, _) in enumerate(program):
        assert at + 1 + max(yes, no) < len(program) or code == 0x06
    plain = [number for name, number in NUMBERS[machine].items() if name not in syscalls.RULES]
    assert max(walk(machine, number)[1] for number in plain) <= 14
    assert max(walk(machine, NUMBERS[machine]["ioctl"], (0, WHOLE))[1] for machine in MACHINES) <= 64


@pytest.mark.requirement("sandbox:seccomp:architecture")
def test_a_machine_without_a_list_has_no_filter() -> None:
    with pytest.raises(errors.SandboxMissing, match="riscv64"):
        seccomp.program("riscv64")
    if platform.machine() in MACHINES:
        assert seccomp.program() == seccomp.program(platform.machine())


@pytest.mark.requirement("sandbox:seccomp:numbers")
@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    done = subprocess.run(
        [sys.executable, tree.ROOT / "scripts" / "syscall-table", machine], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no C compiler, or no {HEADERS[machine]} (linux-libc-dev): nothing to compare with")
    printed: dict[str, int] = {}
    number = 0
    for word in done.stdout.split():
        number = int(word) if word.isdigit() else number
        if not word.isdigit():
            printed[word] = number
            number += 1
    # Later headers fill gaps (uretprobe); what fills a gap is refused until it is listed.
    assert NUMBERS[machine].items() <= printed.items()
    assert len(printed) - len(NUMBERS[machine]) < 10
