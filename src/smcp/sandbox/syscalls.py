"""Which system calls hosted code may make: the data that `sandbox.seccomp` compiles into a filter.

Three parts: `ALLOWED` (whatever the arguments), `RULES` (only with listed arguments), `TABLES` (the calls' numbers,
printed by scripts/syscall-table from the kernel's headers). Every other call is answered EPERM. How the list was
found and why some calls are missing is told in docs/decisions/0014-seccomp-allow-list.md. Numbers of options and
flags are those of Linux's uapi headers, which x86-64 and ARM64 share; the names stand beside them.
"""

from typing import Final, NamedTuple

LOW: Final = 0xFFFFFFFF

_ALLOWED: Final = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range
open openat openat2 creat dup dup2 dup3 pipe pipe2 fcntl flock sendfile splice copy_file_range
stat lstat fstat newfstatat statx statfs fstatfs access faccessat faccessat2
getdents getdents64 getcwd chdir fchdir readlink readlinkat
mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
truncate ftruncate fallocate fsync fdatasync sync_file_range fadvise64 readahead umask
chmod fchmod fchmodat chown fchown lchown fchownat utime utimes futimesat utimensat
getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr

select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime
inotify_init inotify_init1 inotify_add_watch inotify_rm_watch

bind listen accept accept4 connect shutdown getsockname getpeername getsockopt
sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg

brk munmap mremap mprotect madvise msync mlock mlock2 munlock membarrier
pkey_alloc pkey_free pkey_mprotect

fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill
pidfd_open pidfd_send_signal set_tid_address set_robust_list rseq futex
getpid getppid gettid getpgrp getpgid setpgid getsid setsid
getuid geteuid getgid getegid getresuid getresgid getgroups capget
setuid setgid setreuid setregid setresuid setresgid
getrlimit setrlimit prlimit64 getrusage times getpriority setpriority
sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_setparam sched_getscheduler sched_setscheduler
sched_getattr sched_setattr sched_get_priority_max sched_get_priority_min sched_rr_get_interval getcpu

rt_sigaction rt_sigprocmask rt_sigpending rt_sigsuspend rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo
rt_sigreturn sigaltstack restart_syscall pause
alarm getitimer setitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete
time gettimeofday clock_gettime clock_getres nanosleep clock_nanosleep

uname sysinfo getrandom landlock_create_ruleset landlock_add_rule landlock_restrict_self
"""
ALLOWED: Final = frozenset(_ALLOWED.split())
"""Allowed with any argument. A name that a machine lacks (ARM64 has no `open`) is no call there."""

MISSING: Final = frozenset({"clone3"})
"""Answered ENOSYS, so that libcs fall back to `clone`: the flags of clone3 are in memory, where no filter sees them."""


class Test(NamedTuple):
    """One condition on one argument: its masked half is (`among`) or is not one of `values`.

    Most arguments are `int` or `unsigned int`: of those the kernel takes the low half and the ABI leaves the other
    undefined, so only the low half is looked at. Where a whole `unsigned long` counts, both halves have a test.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = LOW
    among: bool = True
    high: bool = False


def _is(argument: int, *values: int, mask: int = LOW) -> Test:
    return Test(argument, values, mask)


def _not(argument: int, *values: int) -> Test:
    return Test(argument, values, among=False)


def _lacks(argument: int, bits: int) -> Test:
    return Test(argument, (0,), bits)


_TYPE: Final = 0xF
"""The type of a socket without SOCK_CLOEXEC and SOCK_NONBLOCK (SOCK_TYPE_MASK, linux/net.h)."""
_UNIX: Final = (_is(0, 1), _is(1, 1, 2, 5, mask=_TYPE))
"""AF_UNIX; SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET."""

_CLONE_NEW: Final = 0x80 | 0x20000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
"""CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h)."""

_PRCTL: Final = (
    *(1, 2),  # PR_SET_PDEATHSIG, PR_GET_PDEATHSIG
    *(3, 4),  # PR_GET_DUMPABLE, PR_SET_DUMPABLE
    *(15, 16),  # PR_SET_NAME, PR_GET_NAME
    *(21, 23),  # PR_GET_SECCOMP, PR_CAPBSET_READ
    *(29, 30),  # PR_SET_TIMERSLACK, PR_GET_TIMERSLACK
    *(36, 37),  # PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER
    *(38, 39),  # PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS
    *(41, 42),  # PR_SET_THP_DISABLE, PR_GET_THP_DISABLE
    0x53564D41,  # PR_SET_VMA: names for anonymous memory
)
"""linux/prctl.h. Among what is missing: PR_SET_SECCOMP (as seccomp(2)), PR_SET_MM, PR_SET_PTRACER, speculation control,
securebits, ambient capabilities."""

_IOCTL: Final = (
    *(0x5401, 0x5402, 0x5403, 0x5404),  # TCGETS, TCSETS, TCSETSW, TCSETSF
    *(0x802C542A, 0x402C542B, 0x402C542C, 0x402C542D),  # TCGETS2, TCSETS2, TCSETSW2, TCSETSF2
    *(0x5409, 0x540A, 0x540B),  # TCSBRK, TCXONC, TCFLSH
    *(0x540E, 0x5422),  # TIOCSCTTY, TIOCNOTTY
    *(0x540F, 0x5410, 0x5429),  # TIOCGPGRP, TIOCSPGRP, TIOCGSID
    *(0x5411, 0x541B),  # TIOCOUTQ, FIONREAD
    *(0x5413, 0x5414),  # TIOCGWINSZ, TIOCSWINSZ
    *(0x80045430, 0x40045431, 0x5441),  # TIOCGPTN, TIOCSPTLCK, TIOCGPTPEER
    *(0x5421, 0x5450, 0x5451, 0x5452),  # FIONBIO, FIONCLEX, FIOCLEX, FIOASYNC
    *(0x8910, 0x8912, 0x8913, 0x8915),  # SIOCGIFNAME, SIOCGIFCONF, SIOCGIFFLAGS, SIOCGIFADDR
    *(0x8919, 0x891B, 0x8921, 0x8927, 0x8933),  # SIOCGIFBRDADDR, -NETMASK, -MTU, -HWADDR, -INDEX
    0x8946,  # SIOCETHTOOL: psutil.net_if_stats; a cell's own network has a loopback device only
    *(0x40049409, 0x4020940D),  # FICLONE, FICLONERANGE
)
"""asm-generic/ioctls.h, linux/sockios.h, linux/fs.h. Not TIOCSTI, TIOCLINUX, TIOCSETD, TIOCCONS, nor any device's."""

RULES: Final[dict[str, tuple[tuple[Test, ...], ...]]] = {
    # No new namespace. CSIGNAL, the low byte, holds no CLONE_NEWTIME for clone(2); refused all the same.
    "clone": ((_lacks(0, _CLONE_NEW), Test(0, (0,), high=True)),),
    # PER_LINUX as it is, or the question what it is; no ADDR_NO_RANDOMIZE, no READ_IMPLIES_EXEC.
    "personality": ((_is(0, 0, 0xFFFFFFFF),),),
    # AF_UNIX; AF_INET and AF_INET6 as TCP or UDP; AF_NETLINK as NETLINK_ROUTE, which getaddrinfo(3), if_nameindex(3)
    # and Node's os.networkInterfaces ask for addresses.
    "socket": (
        _UNIX,
        (_is(0, 2, 10), _is(1, 1, 2, mask=_TYPE), _is(2, 0, 6, 17)),
        (_is(0, 16), _is(1, 2, 3, mask=_TYPE), _is(2, 0)),
    ),
    "socketpair": (_UNIX,),
    # SOL_SOCKET (1) without programs for the kernel: SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, _EBPF.
    # IPPROTO_TCP (6) without TCP_ULP, which puts kernel TLS on.
    "setsockopt": (
        (_is(1, 1), _not(2, 26, 50, 51, 52)),
        (_is(1, 6), _not(2, 31)),
        (_is(1, 0, 17, 41),),  # IPPROTO_IP, IPPROTO_UDP, IPPROTO_IPV6
    ),
    "ioctl": ((_is(1, *_IOCTL),),),
    "prctl": ((_is(0, *_PRCTL),),),
    # ARCH_SET_GS, ARCH_SET_FS, ARCH_GET_FS, ARCH_GET_GS (asm/prctl.h).
    "arch_prctl": ((_is(0, 0x1001, 0x1002, 0x1003, 0x1004),),),
    # Without MAP_HUGETLB and MFD_HUGETLB: memory from a pool of the host that the cell's limit doesn't count.
    "mmap": ((_lacks(3, 0x40000),),),
    "memfd_create": ((_lacks(1, 0x4),),),
    # Files, pipes and sockets (S_IFMT); no device, not even the device 0 that overlay file systems give a meaning.
    "mknod": ((_is(1, 0, 0o010000, 0o100000, 0o140000, mask=0o170000),),),
    "mknodat": ((_is(2, 0, 0o010000, 0o100000, 0o140000, mask=0o170000),),),
}
"""Allowed if every test of one of the lines holds."""


def numbers(machine: str) -> dict[str, int]:
    """The calls of `machine` and their numbers. Raises `KeyError` for one that has no table."""
    found: dict[str, int] = {}
    number = 0
    for word in TABLES[machine].split():
        if word.isdigit():
            number = int(word)
        else:
            found[word] = number
            number += 1
    return found


TABLES: Final = {
    # Names in the order of their numbers; a number stands where the count does not go on. Kept as printed:
    # scripts/syscall-table x86_64
    "x86_64": """
0 read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
ioctl pread64 pwrite64 readv writev access pipe select sched_yield mremap msync mincore madvise shmget shmat shmctl
dup dup2 pause nanosleep getitimer alarm setitimer getpid sendfile socket connect accept sendto recvfrom sendmsg
recvmsg shutdown bind listen getsockname getpeername socketpair setsockopt getsockopt clone fork vfork execve exit
wait4 kill uname semget semop semctl shmdt msgget msgsnd msgrcv msgctl fcntl flock fsync fdatasync truncate ftruncate
getdents getcwd chdir fchdir rename mkdir rmdir creat link unlink symlink readlink chmod fchmod chown fchown lchown
umask gettimeofday getrlimit getrusage sysinfo times ptrace getuid syslog getgid setuid setgid geteuid getegid setpgid
getppid getpgrp setsid setreuid setregid getgroups setgroups setresuid getresuid setresgid getresgid getpgid setfsuid
setfsgid getsid capget capset rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime mknod
uselib personality ustat statfs fstatfs sysfs getpriority setpriority sched_setparam sched_getparam sched_setscheduler
sched_getscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval mlock munlock mlockall
munlockall vhangup modify_ldt pivot_root _sysctl prctl arch_prctl adjtimex setrlimit chroot sync acct settimeofday
mount umount2 swapon swapoff reboot sethostname setdomainname iopl ioperm create_module init_module delete_module
get_kernel_syms query_module quotactl nfsservctl getpmsg putpmsg afs_syscall tuxcall security gettid readahead
setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr
fremovexattr tkill time futex sched_setaffinity sched_getaffinity set_thread_area io_setup io_destroy io_getevents
io_submit io_cancel get_thread_area lookup_dcookie epoll_create epoll_ctl_old epoll_wait_old remap_file_pages
getdents64 set_tid_address restart_syscall semtimedop fadvise64 timer_create timer_settime timer_gettime
timer_getoverrun timer_delete clock_settime clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl
tgkill utimes vserver mbind set_mempolicy get_mempolicy mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify
mq_getsetattr kexec_load waitid add_key request_key keyctl ioprio_set ioprio_get inotify_init inotify_add_watch
inotify_rm_watch migrate_pages openat mkdirat mknodat fchownat futimesat newfstatat unlinkat renameat linkat symlinkat
readlinkat fchmodat faccessat pselect6 ppoll unshare set_robust_list get_robust_list splice tee sync_file_range
vmsplice move_pages utimensat epoll_pwait signalfd timerfd_create eventfd fallocate timerfd_settime timerfd_gettime
accept4 signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev rt_tgsigqueueinfo perf_event_open
recvmmsg fanotify_init fanotify_mark prlimit64 name_to_handle_at open_by_handle_at clock_adjtime syncfs sendmmsg setns
getcpu process_vm_readv process_vm_writev kcmp finit_module sched_setattr sched_getattr renameat2 seccomp getrandom
memfd_create kexec_file_load bpf execveat userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect
pkey_alloc pkey_free statx io_pgetevents rseq 424 pidfd_send_signal io_uring_setup io_uring_enter io_uring_register
open_tree move_mount fsopen fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2
process_madvise epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule
landlock_restrict_self memfd_secret process_mrelease futex_waitv set_mempolicy_home_node
""",
    # scripts/syscall-table aarch64
    "aarch64": """
0 io_setup io_destroy io_submit io_cancel io_getevents setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr
listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr getcwd lookup_dcookie eventfd2 epoll_create1
epoll_ctl epoll_pwait dup dup3 fcntl inotify_init1 inotify_add_watch inotify_rm_watch ioctl ioprio_set ioprio_get
flock mknodat mkdirat unlinkat symlinkat linkat renameat umount2 mount pivot_root nfsservctl statfs fstatfs truncate
ftruncate fallocate faccessat chdir fchdir chroot fchmod fchmodat fchownat fchown openat close vhangup pipe2 quotactl
getdents64 lseek read write readv writev pread64 pwrite64 preadv pwritev sendfile pselect6 ppoll signalfd4 vmsplice
splice tee readlinkat newfstatat fstat sync fsync fdatasync sync_file_range timerfd_create timerfd_settime
timerfd_gettime utimensat acct capget capset personality exit exit_group waitid set_tid_address unshare futex
set_robust_list get_robust_list nanosleep getitimer setitimer kexec_load init_module delete_module timer_create
timer_gettime timer_getoverrun timer_settime timer_delete clock_settime clock_gettime clock_getres clock_nanosleep
syslog ptrace sched_setparam sched_setscheduler sched_getscheduler sched_getparam sched_setaffinity sched_getaffinity
sched_yield sched_get_priority_max sched_get_priority_min sched_rr_get_interval restart_syscall kill tkill tgkill
sigaltstack rt_sigsuspend rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigreturn
setpriority getpriority reboot setregid setgid setreuid setuid setresuid getresuid setresgid getresgid setfsuid
setfsgid times setpgid getpgid getsid setsid getgroups setgroups uname sethostname setdomainname getrlimit setrlimit
getrusage umask prctl getcpu gettimeofday settimeofday adjtimex getpid getppid getuid geteuid getgid getegid gettid
sysinfo mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr msgget msgctl msgrcv msgsnd semget
semctl semtimedop semop shmget shmctl shmat shmdt socket socketpair bind listen accept connect getsockname getpeername
sendto recvfrom setsockopt getsockopt shutdown sendmsg recvmsg readahead brk munmap mremap add_key request_key keyctl
clone execve mmap fadvise64 swapon swapoff mprotect msync mlock munlock mlockall munlockall mincore madvise
remap_file_pages mbind get_mempolicy set_mempolicy migrate_pages move_pages rt_tgsigqueueinfo perf_event_open accept4
recvmmsg 260 wait4 prlimit64 fanotify_init fanotify_mark name_to_handle_at open_by_handle_at clock_adjtime syncfs
setns sendmmsg process_vm_readv process_vm_writev kcmp finit_module sched_setattr sched_getattr renameat2 seccomp
getrandom memfd_create bpf execveat userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect
pkey_alloc pkey_free statx io_pgetevents rseq kexec_file_load 424 pidfd_send_signal io_uring_setup io_uring_enter
io_uring_register open_tree move_mount fsopen fsconfig fsmount fspick pidfd_open clone3 close_range openat2
pidfd_getfd faccessat2 process_madvise epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset
landlock_add_rule landlock_restrict_self memfd_secret process_mrelease futex_waitv set_mempolicy_home_node
""",
}
