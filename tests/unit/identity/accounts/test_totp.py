"""Codes of apps: the RFCs' own vectors, drift, replay, and the codes for a lost device."""

import pytest

from smcp.identity.accounts import totp

SEED = b"12345678901234567890"
VECTORS = ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"]


@pytest.mark.requirement("oauth:people:totp-vectors")
@pytest.mark.parametrize(
    ("counter", "code"),
    list(enumerate(VECTORS)),
)
def test_codes_are_those_of_rfc_4226_appendix_d(counter: int, code: str) -> None:
    assert totp.hotp(SEED, counter) == code


@pytest.mark.requirement("oauth:people:totp-vectors")
@pytest.mark.parametrize(
    ("now", "sha1", "sha256", "sha512"),
    [
        (59, "94287082", "46119246", "90693936"),
        (1111111109, "07081804", "68084774", "25091201"),
        (1111111111, "14050471", "67062674", "99943326"),
        (1234567890, "89005924", "91819424", "93441116"),
        (2000000000, "69279037", "90698825", "38618901"),
        (20000000000, "65353130", "77737706", "47863826"),
    ],
)
def test_codes_are_those_of_rfc_6238_appendix_b(now: int, sha1: str, sha256: str, sha512: str) -> None:
    step = totp.step(now)
    assert totp.hotp(SEED, step, digits=8) == sha1
    assert totp.hotp((SEED * 2)[:32], step, digits=8, algorithm="sha256") == sha256
    assert totp.hotp((SEED * 4)[:64], step, digits=8, algorithm="sha512") == sha512


@pytest.mark.requirement("oauth:people:totp-once")
def test_a_code_of_a_used_or_earlier_step_does_not_pass() -> None:
    now = 1_800_000_000.0
    at = totp.step(now)
    for drift in (-1, 0, 1):
        assert totp.matching(SEED, totp.hotp(SEED, at + drift), now, 0) == at + drift
        assert totp.matching(SEED, totp.hotp(SEED, at + drift), now, at + drift) is None
        assert totp.matching(SEED, totp.hotp(SEED, at + drift), now, at + 1) is None
    for drift in (-3, -2, 2, 3):
        assert totp.matching(SEED, totp.hotp(SEED, at + drift), now, 0) is None


@pytest.mark.requirement("oauth:people:totp-once")
@pytest.mark.parametrize("typed", ["", "12345", "1234567", "abcdef", "١٢٣٤٥٦", "-12345", "12 34 5"])
def test_what_is_no_code_is_none(typed: str) -> None:
    assert totp.matching(SEED, typed, 0.0, -5) is None


@pytest.mark.requirement("oauth:people:recovery-codes")
def test_recovery_codes_differ_and_are_read_forgivingly() -> None:
    codes = totp.recovery_codes()
    assert len(set(codes)) == totp.RECOVERY_CODES
    key = b"k" * 32
    digest = totp.recovery_digest(key, "user-1", codes[0])
    assert digest is not None
    assert totp.recovery_digest(key, "user-1", codes[0].upper().replace("-", " ")) == digest
    assert totp.recovery_digest(key, "user-1", codes[0].replace("1", "l").replace("0", "O")) == digest
    assert totp.recovery_digest(key, "user-2", codes[0]) != digest
    assert totp.recovery_digest(key, "user-1", "123456") is None


@pytest.mark.requirement("oauth:people:totp-vectors")
def test_the_address_for_apps_holds_what_they_need() -> None:
    assert totp.text(SEED) == "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ"
    assert totp.address(SEED, "SMCP acme", "ada@acme.example") == (
        "otpauth://totp/SMCP%20acme:ada@acme.example?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=SMCP%20acme"
    )
