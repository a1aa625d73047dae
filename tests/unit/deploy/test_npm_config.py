"""npm's configuration on its way into the fetch: what is taken, what is left, and what never shows."""

import base64
import pathlib

import pytest

from smcp.deploy import npm_config

_NPMRC = """
; a comment
# another one
registry=https://one.example/npm/
@mine:registry = "https://two.example"
//two.example/:_authToken=${TOKEN}
//one.example/npm/:_password = Y2FuYXJ5LTM=
cafile=/dev/null
ca[]=first\\nline
ca[]=second
ignore-scripts=false
script-shell=/bin/sh
prefix=/x
node-options=--require /x
git=/x
_authToken=canary-unscoped
[section]
strict-ssl = false ; why not
"""


@pytest.mark.requirement("deploy:npm:configuration")
def test_only_how_to_connect_is_taken_over(tmp_path: pathlib.Path) -> None:
    (tmp_path / "npmrc").write_text(_NPMRC, "utf-8")
    environ = {
        "TOKEN": "canary-1",
        "npm_config_fetch_timeout": "9000",
        "NPM_CONFIG_PROXY": "http://user:canary-2@proxy.example:3128",
        "npm_config_ignore_scripts": "false",
        "npm_config_//three.example/:_authToken": "canary-4",
        "npm_config_userconfig": "/x",
        "NODE_OPTIONS": "--require /x",
        "npm_config_script_shell": "/x",
        "HTTPS_PROXY": "http://other.example",
    }
    found = npm_config.read(environ, (tmp_path / "npmrc", tmp_path / "absent"))
    assert dict(found.options) == {
        "registry": "https://one.example/npm/",
        "@mine:registry": "https://two.example",
        "//two.example/:_authToken": "canary-1",
        "//one.example/npm/:_password": "Y2FuYXJ5LTM=",
        "//three.example/:_authToken": "canary-4",
        "cafile": "/dev/null",
        "ca[]": "second",
        "strict-ssl": "false",
        "fetch-timeout": "9000",
        "proxy": "http://user:canary-2@proxy.example:3128",
    }
    assert [value for name, value in found.options if name == "ca[]"] == ["first\nline", "second"]
    assert dict(found.env) == {"HTTPS_PROXY": "http://other.example"}
    assert found.hosts == ("one.example:443", "other.example:80", "proxy.example:3128", "two.example:443")
    assert found.names_registry
    assert "/dev/null" in [bind.source for bind in found.binds]


@pytest.mark.requirement("deploy:npm:configuration")
def test_variables_win_over_the_users_file_and_that_over_the_global_one(tmp_path: pathlib.Path) -> None:
    (tmp_path / "global").write_text("registry=https://one.example\nmaxsockets=3\n", "utf-8")
    (tmp_path / "user").write_text("registry=https://two.example\nproxy=http://p.example\n", "utf-8")
    files = (tmp_path / "global", tmp_path / "user")
    assert dict(npm_config.read({}, files).options)["registry"] == "https://two.example"
    found = dict(npm_config.read({"npm_config_registry": "https://three.example"}, files).options)
    assert found == {"registry": "https://three.example", "maxsockets": "3", "proxy": "http://p.example"}
    named = {"HOME": "/some/home", "NPM_CONFIG_GLOBALCONFIG": "/g", "npm_config_userconfig": "/u"}
    assert npm_config.config_files(named) == [pathlib.Path("/g"), pathlib.Path("/u")]
    assert npm_config.config_files({"HOME": "/some/home"})[-1] == pathlib.Path("/some/home/.npmrc")


@pytest.mark.requirement("deploy:npm:configuration")
def test_no_value_forges_a_line_of_the_file() -> None:
    evil = 'x"\nignore-scripts=false\nscript-shell=/x'
    lines = npm_config.read({"npm_config_cert": evil, "npm_config_key": "${HOME}"}, ()).file().content.splitlines()
    assert [line.partition(b" ")[0] for line in lines] == [
        b"fetch-retry-mintimeout",
        b"fetch-retry-maxtimeout",
        b"cert",
    ]


@pytest.mark.requirement("deploy:npm:configuration")
def test_without_configuration_npm_goes_where_it_goes_by_itself() -> None:
    found = npm_config.read({"HOME": "/nonexistent", "PATH": "/x"}, ())
    assert (found.options, found.env, found.secrets, found.hosts) == ((), (), (), ())
    assert not found.names_registry
    assert all(line.startswith(b"fetch-retry-") for line in found.file().content.splitlines())


@pytest.mark.requirement("deploy:npm:secrets")
def test_credentials_are_cut_out_of_what_npm_says() -> None:
    both = base64.b64encode(b"user:canary-both").decode()
    found = npm_config.read(
        {
            "npm_config_//a.example/:_authToken": "canary-token",
            "npm_config_//b.example/:_auth": both,
            "npm_config_//c.example/:_password": base64.b64encode(b"canary-password").decode(),
            "npm_config_registry": "https://canary-user:canary-pass@d.example/",
            "HTTPS_PROXY": "http://canary-proxy@p.example",
        },
        (),
    )
    said = (
        f"GET https://canary-user:canary-pass@d.example/x canary-token {both} canary-both canary-password canary-proxy"
    )
    assert "canary" not in found.clean(said)
    assert both not in found.clean(said)
    assert "canary" not in repr(found)
    assert "canary" not in repr(found.file())
