"""`rootless.py`: tries a launcher as a user without privilege, and prints what it saw as JSON.

It is a program of its own, because the tests run as root: whoever starts it has given that up.
"""

import asyncio
import json
import os
import pathlib
import signal
import sys
from typing import Any

import msgspec

from smcp.sandbox import interpreter, launch, spawn, walls
from support import busy, cell, processes

_WHO = """
import json, os, resource, socket
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
def reached():
    try:
        socket.create_connection(("169.254.169.254", 80), 2)
        return True
    except OSError:
        return False
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "caps": sorted({status[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}),
    "nnp": status["NoNewPrivs"], "seccomp": status["Seccomp"], "root": sorted(os.listdir("/")),
    "pids": [name for name in os.listdir("/proc") if name.isdigit()], "network": reached(),
    "nproc": resource.getrlimit(resource.RLIMIT_NPROC), "home": os.path.exists(HOME), "python": os.__file__,
    "environ": open("/proc/1/environ").read(), "groups": os.getgroups(),
}))
"""
_BOMB = """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except OSError:
    print(count)
os._exit(0)
"""
_TALKS = """
import socket
with socket.create_connection(("1.2.3.4", 443), 60) as there:
    print(there.recv(16).decode())
"""


async def _in(launcher: launch.Launcher, app: str, code: str, **changes: Any) -> str:
    inside = msgspec.structs.replace(cell.python(app, code), **changes)
    outcome = await spawn.run(inside, launcher, timeout_s=cell.WAIT_S)
    assert outcome.code == 0, outcome
    return outcome.tail[-1]


async def _answered(launcher: launch.Launcher, app: str) -> str:
    """A cell's connection arrives at the socket that came out of its network."""
    read, write = os.pipe()
    inside = msgspec.structs.replace(cell.python(app, _TALKS), egress=(80, 443))
    child = await launcher.spawn(inside, stdin=0, stdout=write, stderr=write)
    os.close(write)
    _, _, listener = child.sockets
    listener.setblocking(False)
    peer, _ = await asyncio.get_running_loop().sock_accept(listener)
    peer.send(b"hello")
    peer.close()
    await child.wait()
    for one in child.sockets:
        one.close()
    said = os.read(read, 4096).decode().strip()
    os.close(read)
    return said


def _made(*parts: str) -> str:
    place = pathlib.Path(*parts)
    place.mkdir(parents=True)
    return str(place)


def _text(*parts: str) -> str:
    return pathlib.Path(*parts).read_text()


async def main() -> None:
    """Try it all."""
    seen: dict[str, Any] = {"uid": os.geteuid(), "layers": sorted(cell.host().layers)}
    async with cell.standing() as (launcher, house):
        app = _made(house.artefacts, cell.TENANT, "0a")
        who = f"HOME = {os.environ['HOME']!r}\n" + _WHO
        seen["who"] = json.loads(await _in(launcher, app, who))
        seen["bomb"] = int(await _in(launcher, app, _BOMB, processes=12))
        await launcher.open_volume(cell.TENANT, "memory", 1 << 20)
        volume = walls.Volume("memory", "/data")
        await _in(launcher, app, "open('/data/x', 'w').write('kept'); print('written')", volume=volume)
        seen["volume"] = await _in(launcher, app, "print(open('/data/x').read())", volume=volume)
        seen["volumes outside"] = os.listdir(house.volumes)
        seen["egress"] = await _answered(launcher, app)
        work = _made(house.work, "op")
        binds = (*interpreter.current().binds, walls.Bind(work, "/build", writable=True))
        await _in(launcher, app, "open('/build/x', 'w').write('made'); print('written')", binds=binds)
        seen["built"] = _text(work, "x")
        reading, ended = await busy.taken(launcher, house)
        seen["taken"] = [reading.cpu_s, reading.memory_byte_s, ended.cpu_s, ended.memory_byte_s]
        for step in range(40):
            sleeper = msgspec.structs.replace(cell.python(app, "import time; time.sleep(600)"))
            child = await launcher.spawn(sleeper, stdin=0, stdout=1, stderr=2)
            await asyncio.sleep(step / 8000)
            child.kill()
            await child.wait()
        seen["left"] = len(processes.naming(f"smcp-cell:{house.platform}"))
        child = await launcher.spawn(cell.python(app, "import time; time.sleep(600)"), stdin=0, stdout=1, stderr=2)
        running = processes.descendants(child.pid)
        seen["host uids"] = sorted({os.stat(f"/proc/{one.pid}").st_uid for one in running})
        seen["frozen"] = await child.freeze()
        await child.thaw()
        (head,) = [one for one in processes.descendants(os.getpid()) if "smcp.sandbox.launcher" in one.command]
        os.kill(head.pid, signal.SIGKILL)
        await launcher.ended.wait()
        seen["left after a kill"] = len(processes.left(running, 60))
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
