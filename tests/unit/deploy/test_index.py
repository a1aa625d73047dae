"""pip's configuration on its way into the fetch: what is taken, what is left, and what never shows."""

import pathlib

import pytest

from smcp.deploy import guard, index

_URL = "https://user:canary%2D1@index.example/simple"


@pytest.mark.requirement("deploy:index:configuration")
def test_variables_win_over_files_and_files_over_earlier_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "global").write_text("[global]\nindex-url = https://one.example/simple\ntimeout = 7\n")
    (tmp_path / "user").write_text("[global]\nindex_url = https://two.example/simple\n[download]\nretries = 1\n")
    files = (tmp_path / "global", tmp_path / "user", tmp_path / "absent")
    assert dict(index.read({}, files).env) == {
        "PIP_INDEX_URL": "https://two.example/simple",
        "PIP_RETRIES": "1",
        "PIP_TIMEOUT": "7",
    }
    assert (
        dict(index.read({"PIP_INDEX_URL": "https://three.example"}, files).env)["PIP_INDEX_URL"]
        == "https://three.example"
    )


@pytest.mark.requirement("deploy:index:configuration")
def test_only_how_to_connect_is_taken_over(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\ntarget = /x\nno-binary = :all:\nlog = /x\n[install]\nindex-url = http://x\n"
    )
    environ = {
        "PIP_TARGET": "/x",
        "PIP_PREFIX": "/x",
        "PIP_NO_BINARY": ":all:",
        "PIP_LOG": "/x",
        "AWS_SECRET": "x",
        "HOME": "/x",
    }
    assert index.read(environ, (tmp_path / "pip.conf",)).env == ()


@pytest.mark.requirement("deploy:index:configuration")
def test_local_mirrors_and_certificates_are_mounted_read_only(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mirror/simple").mkdir(parents=True)
    (tmp_path / "links").mkdir()
    (tmp_path / "ca.pem").write_text("")
    found = index.read(
        {
            "PIP_EXTRA_INDEX_URL": f"https://far.example/simple file://{tmp_path}/mirror/simple",
            "PIP_FIND_LINKS": f"{tmp_path}/links {tmp_path}/absent",
            "PIP_CERT": f"{tmp_path}/ca.pem",
        },
        (),
    )
    targets = {bind.target for bind in found.binds}
    assert {f"{tmp_path}/mirror", f"{tmp_path}/links", f"{tmp_path}/ca.pem"} <= targets
    assert f"{tmp_path}/absent" not in targets
    assert "/" not in targets
    assert not any(bind.writable for bind in found.binds)


@pytest.mark.requirement("deploy:fetch:secrets")
def test_credentials_show_nowhere() -> None:
    found = index.read({"PIP_INDEX_URL": _URL, "HTTPS_PROXY": "http://token-4711@proxy.example:3128"}, ())
    assert "canary" not in repr(found)
    for said in (f"Looking in {_URL}", "canary%2D1", "canary-1", "token-4711", "http://token-4711@proxy.example"):
        cleaned = found.clean(said)
        assert "canary" not in cleaned
        assert "token-4711" not in cleaned


@pytest.mark.requirement("deploy:fetch:addresses")
@pytest.mark.parametrize(
    ("address", "allowed", "may"),
    [
        (("151.101.0.223", 443), set[str](), True),
        (("169.254.169.254", 80), set[str](), False),
        (("169.254.169.254", 80), {"10.0.0.5"}, False),
        (("127.0.0.1", 8080), {"10.0.0.5"}, False),
        (("127.0.0.1", 3141), {"127.0.0.1"}, True),
        (("10.0.0.5", 443), {"10.0.0.5"}, True),
        (("10.0.0.9", 443), {"10.0.0.5"}, True),
        (("10.0.0.9", 443), {"151.101.0.223"}, False),
        (("::1", 443, 0, 0), set[str](), False),
        (("::ffff:169.254.169.254", 80, 0, 0), set[str](), False),
        (("fe80::1%eth0", 80, 0, 2), set[str](), False),
        (("0.0.0.0", 80), {"10.0.0.5"}, False),
        ("/run/docker.sock", {"10.0.0.5"}, False),
        (("not-an-address", 80), set[str](), False),
    ],
)
def test_the_fetch_connects_to_public_addresses_and_where_the_configuration_leads(
    address: object, allowed: set[str], may: bool
) -> None:
    assert guard.may_connect(address, allowed) is may


@pytest.mark.requirement("deploy:fetch:addresses")
def test_the_hosts_of_the_configuration_are_found() -> None:
    environ = {
        "PIP_INDEX_URL": _URL,
        "PIP_FIND_LINKS": "/local https://links.example/x",
        "https_proxy": "proxy.example:3128",
    }
    assert guard.configured(environ, frozenset({"own.example"})) == {"index.example", "links.example", "proxy.example"}
    assert guard.configured({}, frozenset({"own.example"})) == {"own.example"}
