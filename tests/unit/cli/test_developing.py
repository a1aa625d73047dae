"""What `smcp dev` says of a folder, and what it does not say again."""

import pathlib

import pytest

from smcp.cli import datadir, developing, session


@pytest.mark.requirement("dev:notices:once")
def test_what_is_left_out_is_said_once_until_it_changes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path / "config"))
    root = tmp_path / "notes"
    (root / "src").mkdir(parents=True)
    (root / "src/index.js").write_text("export default {}\n")
    (root / ".env").write_text("A=1\n")
    wrangler = root / "wrangler.toml"
    head = 'name = "notes"\nmain = "src/index.js"\ncompatibility_date = "2026-11-01"\n'
    text = head + 'kv_namespaces = [{ binding = "A" }]\n'
    wrangler.write_text(text)
    place = datadir.DataDir(tmp_path / "data")
    work = developing.Work(session.Session(as_json=True), place, "http://127.0.0.1:1", root, None, ())

    def said() -> str:
        parcel = work.parcel()
        assert parcel is not None
        assert parcel.chosen is not None
        assert "src/index.js" in parcel.chosen.files
        return "\n".join(parcel.chosen.left_out)

    first = said()
    assert ".env" in first
    assert "A is named" in first
    assert said() == ""
    # One more is left out: that is said, and not the other again.
    (root / ".dev.vars").write_text("B=1\n")
    assert ".dev.vars" in (second := said())
    assert "A is named" not in second
    wrangler.write_text(text.replace('"A"', '"B"'))
    assert "B is named" in (third := said())
    assert ".env" not in third
    assert said() == ""
    # What went away and comes back is said again.
    wrangler.write_text(head)
    assert said() == ""
    wrangler.write_text(text)
    assert "A is named" in said()
