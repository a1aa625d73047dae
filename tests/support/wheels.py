"""Makes small wheels: real ones that pip installs, and broken ones that the platform must refuse."""

import base64
import hashlib
import pathlib
import zipfile
from collections.abc import Mapping, Sequence


def build_wheel(
    directory: pathlib.Path,
    name: str,
    version: str = "1.0",
    modules: Mapping[str, str] | None = None,
    entry_points: Mapping[str, str] | None = None,
    requires: Sequence[str] = (),
    *,
    tag: str = "py3-none-any",
    extra: Sequence[tuple[zipfile.ZipInfo, bytes]] = (),
) -> pathlib.Path:
    """Write `<name>-<version>-<tag>.whl` into `directory` and return its path.

    `modules` maps paths inside the wheel (`hello.py`, `pkg/data.txt`) to their text, `entry_points` console scripts to
    `module:function`, `requires` are requirement strings. `extra` entries are put in as they are, however bad.
    """
    plain = name.replace("-", "_").replace(".", "_")
    info = f"{plain}-{version}.dist-info"
    files = {path: text.encode() for path, text in (modules or {}).items()}
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    files[f"{info}/METADATA"] = "\n".join([*lines, *(f"Requires-Dist: {one}" for one in requires), ""]).encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    if entry_points:
        scripts = "".join(f"{script} = {place}\n" for script, place in entry_points.items())
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}".encode()
    records = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*records, f"{info}/RECORD,,", ""]).encode()
    directory.mkdir(parents=True, exist_ok=True)
    # As an operator does: what fetches packages has a uid of its own.
    directory.chmod(directory.stat().st_mode | 0o005)
    target = directory / f"{plain}-{version}-{tag}.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), data)
        for entry, data in extra:
            archive.writestr(entry, data)
    return target


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
