"""Sealing against the published vectors, and the key ring."""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.kernel import crypto, errors, ids

ACME, OTHER = ids.tenant("acme"), ids.tenant("other")
NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"


@pytest.mark.requirement("kernel:crypto:xaes-vectors")
@pytest.mark.parametrize(
    ("key", "aad", "ciphertext"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (b"\x03" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
    ids=["msb-0", "msb-1"],
)
def test_xaes_gives_the_published_ciphertexts(key: bytes, aad: bytes, ciphertext: str) -> None:
    sealed = crypto.Xaes(key).seal(b"XAES-256-GCM", aad, NONCE)
    assert sealed == NONCE + bytes.fromhex(ciphertext)
    assert crypto.Xaes(key).open(sealed, aad) == b"XAES-256-GCM"


@pytest.mark.requirement("kernel:crypto:xaes-vectors")
def test_xaes_gives_the_published_hash_of_ten_thousand_random_seals() -> None:
    # A stretch that surely holds 10 000 cases of at most 568 bytes; SHAKE's output does not depend on its length.
    stream = hashlib.shake_128().digest(10_000 * 568)
    assert stream.startswith(bytes.fromhex("7f9c2ba4e88f827d616045507605853e"))
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        return stream[at - count : at]

    seen = hashlib.shake_128()
    for _ in range(10_000):
        key, nonce = take(32), take(24)
        plaintext = take(take(1)[0])
        aad = take(take(1)[0])
        sealed = crypto.Xaes(key).seal(plaintext, aad, nonce)
        seen.update(sealed[24:])
        assert crypto.Xaes(key).open(sealed, aad) == plaintext
    assert seen.hexdigest(32) == "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


@pytest.mark.requirement("kernel:crypto:tamper")
@given(plaintext=st.binary(max_size=100), aad=st.binary(max_size=20), data=st.data())
def test_what_is_changed_cut_or_moved_does_not_open(plaintext: bytes, aad: bytes, data: st.DataObject) -> None:
    xaes = crypto.Xaes(b"k" * 32)
    sealed = xaes.seal(plaintext, aad)
    assert xaes.open(sealed, aad) == plaintext
    at = data.draw(st.integers(0, len(sealed) - 1))
    flipped = bytearray(sealed)
    flipped[at] ^= data.draw(st.integers(1, 255))
    for wrong, bound in [
        (bytes(flipped), aad),
        (sealed[:at], aad),
        (sealed + b"\0", aad),
        (plaintext, aad),
        (sealed, aad + b"\0"),
    ]:
        with pytest.raises(errors.TamperedData):
            xaes.open(wrong, bound)
    with pytest.raises(errors.TamperedData):
        crypto.Xaes(b"K" * 32).open(sealed, aad)


@pytest.mark.requirement("kernel:crypto:nonces")
def test_nonces_do_not_repeat_and_the_derived_key_changes_in_time() -> None:
    xaes = crypto.Xaes(b"k" * 32)
    nonces = [xaes.seal(b"", b"")[:24] for _ in range((1 << 16) + 10)]
    assert len(set(nonces)) == len(nonces)
    assert len({nonce[:12] for nonce in nonces}) == 2
    other = crypto.Xaes(b"k" * 32)
    assert other.seal(b"", b"")[:12] not in {nonce[:12] for nonce in nonces}


def test_many_derived_keys_open_in_any_order() -> None:
    sealed = [crypto.Xaes(b"k" * 32).seal(b"%d" % n, b"") for n in range(200)]
    xaes = crypto.Xaes(b"k" * 32)
    for n in [*range(200), *reversed(range(200))]:
        assert xaes.open(sealed[n], b"") == b"%d" % n


def test_keys_and_nonces_have_their_one_length() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        crypto.Xaes(b"short")
    with pytest.raises(ValueError, match="24 bytes"):
        crypto.Xaes(bytes(32)).seal(b"", b"", b"short")


@pytest.mark.requirement("kernel:crypto:digests")
@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_only_the_same_parts_have_the_same_digest(left: list[bytes], right: list[bytes]) -> None:
    assert (crypto.keyed_digest(b"k", *left) == crypto.keyed_digest(b"k", *right)) == (left == right)
    assert crypto.keyed_digest(b"k", *left) != crypto.keyed_digest(b"l", *left)


@pytest.mark.requirement("kernel:crypto:digests")
def test_equal_compares_text_and_bytes() -> None:
    assert crypto.equal("grün", "grün".encode())
    assert not crypto.equal("a", "b")
    assert not crypto.equal(b"a", b"aa")


@pytest.mark.requirement("kernel:crypto:purposes")
def test_each_purpose_and_each_tenant_has_a_key_of_its_own_that_stays(tmp_path: Path) -> None:
    ring = _ring(tmp_path)
    ring.create(ACME)
    ring.create(OTHER)
    keys = [ring.data_key(tenant, purpose) for tenant in (ACME, OTHER) for purpose in ("a", "b")]
    assert len(set(keys)) == 4
    assert ring.data_key(ACME, "a") == keys[0]
    ring.create(ACME)
    again = _ring(tmp_path)
    assert [again.data_key(tenant, purpose) for tenant in (ACME, OTHER) for purpose in ("a", "b")] == keys
    assert again.tenants() == [ACME, OTHER]


def _ring(directory: Path) -> crypto.KeyRing:
    return crypto.KeyRing.open(directory / "keys", directory / "root.key")


@pytest.mark.requirement("kernel:crypto:root-key")
def test_the_root_key_and_the_ring_are_for_their_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        _ring(tmp_path).create(ACME)
    finally:
        os.umask(old)
    for path in [tmp_path / "root.key", tmp_path / "keys/ring.json", tmp_path / "keys/wrapping.json"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


@pytest.mark.requirement("kernel:crypto:root-key")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o677])
def test_a_root_key_that_others_can_read_stops_the_start_and_says_what_to_run(tmp_path: Path, mode: int) -> None:
    _ring(tmp_path)
    (tmp_path / "root.key").chmod(mode)
    with pytest.raises(errors.BadSettings, match="chmod 600"):
        _ring(tmp_path)


@pytest.mark.requirement("kernel:crypto:root-key")
def test_a_missing_wrong_or_broken_root_key_stops_the_start(tmp_path: Path) -> None:
    _ring(tmp_path).create(ACME)
    root = tmp_path / "root.key"
    right = root.read_bytes()
    for text in [b"", b"zz" * 32, right[:-3], right.strip() + b"00\n"]:
        root.write_bytes(text)
        with pytest.raises(errors.BadSettings, match="hexadecimal"):
            _ring(tmp_path)
    root.write_bytes(b"00" * 32)
    with pytest.raises(errors.BadSettings, match="not the one"):
        _ring(tmp_path)
    root.unlink()
    with pytest.raises(errors.BadSettings, match="missing"):
        _ring(tmp_path)
    assert not root.exists(), "a second root key would hide that the first one is lost"
    root.write_bytes(right)
    root.chmod(0o600)
    assert _ring(tmp_path).has(ACME)


@pytest.mark.requirement("kernel:crypto:ring-tamper")
def test_a_changed_ring_does_not_open(tmp_path: Path) -> None:
    ring = _ring(tmp_path)
    ring.create(ACME)
    ring.create(OTHER)
    file = tmp_path / "keys/ring.json"
    good = file.read_bytes()
    tree = json.loads(good)
    swapped = {"acme": tree["tenants"]["other"], "other": tree["tenants"]["acme"]}
    renamed = {"third": tree["tenants"]["acme"]}
    for tenants in (swapped, renamed, {"acme": "!"}, {"acme": ""}):
        file.write_text(json.dumps({**tree, "tenants": tenants}))
        with pytest.raises(errors.TamperedData):
            _ring(tmp_path)
    for text in (b"", b"[]", good[:-1], b"\xff"):
        file.write_bytes(text)
        with pytest.raises(errors.TamperedData):
            _ring(tmp_path)
    file.write_bytes(good)
    assert _ring(tmp_path).has(OTHER)


@pytest.mark.requirement("kernel:crypto:shredding")
def test_a_destroyed_key_is_gone_from_every_copy_of_the_ring(tmp_path: Path) -> None:
    ring = _ring(tmp_path)
    ring.create(ACME)
    ring.create(OTHER)
    kept = ring.data_key(OTHER, "x")
    keys = tmp_path / "keys"
    backup = (keys / "ring.json").read_bytes()
    with (keys / "wrapping.json").open("rb") as wrapping, (keys / "ring.json").open("rb") as old:
        ring.destroy(ACME)
        assert wrapping.read().strip(b"\0") == b"", "the old wrapping key's disk block is overwritten"
        assert old.read().strip(b"\0") == b""
    assert not ring.has(ACME)
    with pytest.raises(errors.NotFound):
        ring.data_key(ACME, "x")
    assert ring.data_key(OTHER, "x") == kept
    again = _ring(tmp_path)
    assert again.tenants() == [OTHER]
    assert again.data_key(OTHER, "x") == kept
    (keys / "ring.json").write_bytes(backup)
    with pytest.raises(errors.TamperedData, match="integrity"):
        _ring(tmp_path)


@pytest.mark.requirement("kernel:crypto:shredding")
def test_a_tenant_that_comes_back_gets_another_key(tmp_path: Path) -> None:
    ring = _ring(tmp_path)
    ring.create(ACME)
    first = ring.data_key(ACME, "x")
    ring.destroy(ACME)
    ring.create(ACME)
    assert ring.data_key(ACME, "x") != first


@pytest.mark.requirement("kernel:crypto:ring-crash")
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_crash_at_any_step_of_a_destruction_leaves_a_ring_that_opens(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = _ring(tmp_path)
    ring.create(ACME)
    ring.create(OTHER)
    kept = ring.data_key(OTHER, "x")
    replace, replaced = Path.replace, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal replaced
        replaced += 1
        if replaced == step:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            ring.destroy(ACME)
    again = _ring(tmp_path)
    assert again.data_key(OTHER, "x") == kept
    assert again.has(ACME) == (step < 3)
    assert len(json.loads((tmp_path / "keys/wrapping.json").read_text())["keys"]) == 1
    again.destroy(ACME)
    assert _ring(tmp_path).tenants() == [OTHER]


def test_no_key_shows_in_a_repr(tmp_path: Path) -> None:
    ring = _ring(tmp_path)
    ring.create(ACME)
    assert "keys" in repr(ring)
    assert ring.data_key(ACME, "x").hex() not in repr(ring)
    assert repr(crypto.Xaes(b"k" * 32)) == "Xaes(…)"
