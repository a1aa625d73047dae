"""What the launcher's child refuses before it touches a network."""

import pytest

from smcp.sandbox import egress, network


@pytest.mark.requirement("sandbox:egress:closed")
@pytest.mark.parametrize("ports", [[0], [65536], [-1], [443, 443], list(range(1000, 1019))])
def test_ports_that_no_rules_make_are_refused_first(ports: list[int]) -> None:
    with pytest.raises(ValueError, match="ports"):
        network.enter(ports)


@pytest.mark.requirement("sandbox:egress:any-program")
def test_a_cell_finds_its_name_system_and_authorities_where_programs_look() -> None:
    found = {file.path: file.content for file in egress.files()}
    assert set(found) == {"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"}
    assert found["/etc/resolv.conf"].startswith(b"nameserver 127.0.0.1\n")
    assert [bind.target for bind in egress.binds()] in ([], [dict(egress.ENV)["SSL_CERT_FILE"]])
    assert not any(bind.writable for bind in egress.binds())
