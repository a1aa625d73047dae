"""Which modules of a Worker's artefact are told to workerd, which reads them inside of the cell."""

import json
import pathlib
import re

import pytest

from smcp.kernel import errors, ids
from smcp.runtime import driver
from smcp.runtime.drivers.workerd import config, generation


def _spec(artefact: pathlib.Path, *names: str) -> driver.Spec:
    worker = driver.Worker(modules=tuple(driver.Module(name, "esm") for name in names), compatibility_date="2026-11-01")
    return driver.Spec(
        tenant=ids.TenantId("acme"),
        server=ids.ServerName("one"),
        deployment="d1",
        artefact=str(artefact),
        argv=(),
        runtime="worker",
        worker=worker,
    )


@pytest.mark.requirement("workers:driver:modules")
def test_only_plain_files_below_the_artefact_are_modules(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "worker"
    (root / "lib").mkdir(parents=True)
    (root / "main.js").write_text("export default {};")
    (root / "lib" / "more.js").write_text("")
    (root / "smcp-first.js").write_text("")
    (tmp_path / "outside.js").write_text("")
    (root / "link.js").symlink_to("/dev/stdin")
    (root / "up").symlink_to("..")
    generation.check(_spec(tmp_path, "main.js", "lib/more.js"))
    for name in (
        *("link.js", "up/outside.js", "../outside.js", "lib/../main.js", "/dev/stdin", "lib", "none.js"),
        *("smcp-first.js", "./main.js", "main.js\0", ""),
    ):
        with pytest.raises(errors.ServerFailed):
            generation.check(_spec(tmp_path, "main.js", name))
    with pytest.raises(errors.ServerFailed):
        generation.check(_spec(tmp_path))


def _text(said: str) -> str:
    worker = driver.Worker(
        modules=(driver.Module(f"main{said}.js", "esm"),),
        compatibility_date=said,
        compatibility_flags=(said,),
        variables=((said, json.dumps(said)),),
        kv=((said, "notes"),),
        durables=(driver.Durable(said, said, said),),
        services=(driver.Service(said, ids.ServerName("two"), said),),
    )
    isolate = config.Isolate(
        number=1,
        worker=worker,
        variables=((said, said),),
        root="/app/1",
        keys=config.Keys(kv=((said, "key"),)),
        neighbours=((said, 2),),
        token="0123456789abcdef",
    )
    return config.text([isolate], heap_mb=64).decode("ascii")


@pytest.mark.requirement("workers:driver:variables")
@pytest.mark.parametrize(
    "odd", ['x", text = "y', "\\", '\\"', "\n", "\0", "\u2028", "é\U0001f600", '"), (name = "z"', "\x7f"]
)
def test_whatever_a_tenant_wrote_stays_inside_of_its_string(odd: str) -> None:
    # In front of a quotation mark stands no escape that is only a backslash: what is between two marks is one string.
    hostile, harmless = _text(odd).split('"'), _text("plain").split('"')
    assert hostile[::2] == harmless[::2]
    assert all(letter.isprintable() for part in hostile[1::2] for letter in part)
    assert all(re.fullmatch(r"(?:[^\\]|\\x[0-9a-f]{2})*", part) for part in hostile[1::2])
