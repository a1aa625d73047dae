"""The long published vector of XAES-256-GCM: a million random cases."""

import hashlib
import sys

import pytest
from cryptography.hazmat.primitives import hashes

from smcp.kernel import crypto

pytestmark = pytest.mark.real


@pytest.mark.requirement("kernel:crypto:xaes-vectors")
@pytest.mark.timeout(300)
def test_xaes_gives_the_published_hash_of_a_million_random_seals() -> None:
    stream = hashes.XOFHash(hashes.SHAKE128(sys.maxsize))
    seen = hashlib.shake_128()
    for _ in range(1_000_000):
        fixed = stream.squeeze(57)
        plaintext = stream.squeeze(fixed[56]) if fixed[56] else b""
        length = stream.squeeze(1)[0]
        aad = stream.squeeze(length) if length else b""
        seen.update(crypto.Xaes(fixed[:32]).seal(plaintext, aad, fixed[32:56])[24:])
    assert seen.hexdigest(32) == "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15"
