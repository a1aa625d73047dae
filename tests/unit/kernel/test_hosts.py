"""Names that belong to a tenant. What else `hosts` does, the edges' tests show."""

import pytest

from smcp.kernel import errors, hosts


@pytest.mark.requirement("kernel:hosts:tenant")
def test_a_name_is_a_tenants_or_nobodys_and_taken_as_a_host_in_both_cases() -> None:
    known = hosts.Hosts(host="127.0.0.1", port=8080, hosts=("plain.example", "MCP.acme.example:8443 = acme"))
    for host in ("plain.example", "mcp.acme.example:8443", "mcp.ACME.example:8443", "127.0.0.1:8080"):
        known.check(host, None)
    assert known.tenant("mcp.ACME.example:8443") == "acme"
    assert [known.tenant(host) for host in ("plain.example", "mcp.acme.example", "127.0.0.1:8080", "")] == [None] * 4
    with pytest.raises(errors.HostRefused):
        known.check("acme", None)


@pytest.mark.requirement("kernel:hosts:tenant")
def test_a_page_of_a_tenants_name_is_a_page_of_this_platform() -> None:
    known = hosts.Hosts(host="127.0.0.1", port=8080, hosts=("mcp.acme.example=acme",))
    known.check("127.0.0.1:8080", "http://mcp.acme.example")


@pytest.mark.requirement("kernel:hosts:tenant")
@pytest.mark.parametrize(
    "entries",
    [("a.example=",), ("a.example=ACME",), ("a.example=platform",), ("=acme",), ("a.example=acme", "A.example=umbra")],
)
def test_a_name_that_can_not_be_a_tenants_stops_the_start(entries: tuple[str, ...]) -> None:
    with pytest.raises(errors.BadSettings, match=r"gateway\.hosts"):
        hosts.Hosts(host="127.0.0.1", port=8080, hosts=entries)
