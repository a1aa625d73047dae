"""Settings: strict, small, frozen."""

import pathlib
import typing

import msgspec
import pytest

from smcp.kernel import errors, settings


@pytest.mark.requirement("kernel:settings:precedence")
def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "smcp.toml"
    file.write_text('[gateway]\nport = 1\nhost = "::1"\n')
    read = settings.load(file, {"SMCP_GATEWAY_PORT": "2", "HOME": "/elsewhere"})
    assert (read.gateway.port, read.gateway.host) == (2, "::1")
    assert read.gateway.max_body_bytes == 1_048_576
    assert settings.load(None, {}) == settings.Settings()


@pytest.mark.requirement("kernel:settings:precedence")
def test_lists_and_numbers_are_read_from_the_environment() -> None:
    read = settings.load(None, {"SMCP_GATEWAY_HOSTS": "a.test, b.test:8443,", "SMCP_RUNTIME_STOP_GRACE_S": "0.5"})
    assert read.gateway.hosts == ("a.test", "b.test:8443")
    assert read.runtime.stop_grace_s == 0.5


@pytest.mark.requirement("kernel:settings:unknown")
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[gateway]\nprot = 1\n", "prot"),
        ("[gatway]\nport = 1\n", "gatway"),
        ("port = 1\n", "port"),
        ('[gateway]\nport = "1"\n', "port"),
        ("[gateway]\nport = 70000\n", "port"),
        ("[gateway]\nport = -1\n", "port"),
        ("[limits]\ntenant_per_minute = 0\n", "tenant_per_minute"),
        ("[limits]\ntenant_per_minute = 1.5\n", "tenant_per_minute"),
        ('[log]\nlevel = "loud"\n', "level"),
        ("[gateway]\ncall_timeout_s = nan\n", "call_timeout_s"),
        ("[gateway]\ncall_timeout_s = inf\n", "call_timeout_s"),
        ("[gateway\n", "TOML"),
    ],
)
def test_a_wrong_file_stops_the_start_and_the_error_names_the_place(
    tmp_path: pathlib.Path, text: str, named: str
) -> None:
    file = tmp_path / "smcp.toml"
    file.write_text(text)
    with pytest.raises(errors.BadSettings, match=named):
        settings.load(file, {})


@pytest.mark.requirement("kernel:settings:unknown")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SMCP_GATEWAY_PROT", "1"),
        ("SMCP_PORT", "1"),
        ("SMCP_", "1"),
        ("SMCP_GATEWAY_PORT", "many"),
        ("SMCP_GATEWAY_PORT", "99999"),
        ("SMCP_GATEWAY_CALL_TIMEOUT_S", "nan"),
        ("SMCP_LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_variable_stops_the_start_and_is_named(name: str, value: str) -> None:
    with pytest.raises(errors.BadSettings, match=name):
        settings.load(None, {name: value})


@pytest.mark.requirement("kernel:settings:unknown")
def test_a_file_that_can_not_be_read_stops_the_start(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.BadSettings, match="can't be read"):
        settings.load(tmp_path / "missing.toml", {})


@pytest.mark.requirement("kernel:settings:unknown")
def test_the_variables_of_the_command_line_are_not_settings_and_do_no_harm() -> None:
    variables = dict.fromkeys(settings.CLIENT_VARIABLES, "x")
    assert settings.load(None, variables) == settings.Settings()


@pytest.mark.requirement("kernel:settings:frozen")
def test_settings_do_not_change_after_they_were_read() -> None:
    read = settings.load(None, {})
    with pytest.raises(AttributeError):
        read.gateway.port = 1  # pyright: ignore[reportAttributeAccessIssue]  # the refusal is what is tested


@pytest.mark.requirement("kernel:settings:no-off-switch")
def test_no_setting_can_switch_anything_off() -> None:
    for group, kind in settings.groups().items():
        for field in msgspec.structs.fields(kind):
            hint = typing.get_type_hints(kind)[field.name]
            assert hint is not bool, f"{group}.{field.name} is a switch"
            for word in ("enable", "disable", "skip", "insecure", "allow_any", "no_"):
                assert word not in field.name
