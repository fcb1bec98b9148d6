"""Settings: every mistake is named with its place, what is allowed and the nearest right key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from core.errors import SettingsError
from core.settings import Settings
from grpc_api.certificates import CertificateFiles, check_server_files
from grpc_api.config import CONFIG_VARIABLE, NOT_SETTINGS, find_line, load_settings
from grpc_api.metrics import Metrics
from repository import read, select
from running import found, make_ca, make_certificate, server_names, serving

FILE = """\
[realm]
number = 1
trust_domain = "bank.example"
profile = "production"

[[realm.services]]
name = "registrar"
roles = ["REGISTRAR"]

[[realm.services]]
name = "auditor"
roles = ["AUDITOR"]

[storage]
directory = "data"

[keys]
directory = "/var/lib/jinku/keys"

[server]
listen = "0.0.0.0:7443"
certificate = "certificates/server.pem"
private_key = "certificates/server.key"
client_ca = "certificates/ca.pem"
"""


def load(tmp_path: Path, text: str, **environment: str) -> Settings:
    path = tmp_path / "jinku.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, {f"JINKU_{key}": value for key, value in environment.items()})


def complaint(tmp_path: Path, text: str, **environment: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, **environment)
    return str(caught.value)


def test_file_is_read_and_paths_are_relative_to_it(tmp_path: Path) -> None:
    settings = load(tmp_path, FILE)
    assert settings.storage.directory == tmp_path / "data"
    assert settings.keys.directory == Path("/var/lib/jinku/keys")
    assert settings.server.client_ca == tmp_path / "certificates/ca.pem"
    assert [service.name for service in settings.realm.services] == ["registrar", "auditor"]
    assert settings.server.calls_max == 64


@pytest.mark.parametrize(
    ("wrong", "right", "expected"),
    [
        (
            'listen = "0',
            'lisen = "0',
            ["jinku.toml:21", "`server.lisen`", "unknown key", "`listen`"],
        ),
        ("[keys]", "[kyes]", ["`kyes`: unknown table", "did you mean `keys`", "`keys` is missing"]),
        (
            'directory = "data"',
            'directory = "data"\nstreams_max = 3',
            ["jinku.toml:16", "`storage.streams_max`", "did you mean `server.streams_max`"],
        ),
        ('"production"', '"demo"', ["jinku.toml:4", "`realm.profile`", "'demonstration'"]),
        ("number = 1", "number = 0", ["jinku.toml:2", "`realm.number`", "greater than", "(is 0)"]),
        ("number = 1", 'number = "one"', ["`realm.number`", "valid integer"]),
        ("number = 1\n", "", ["`realm.number` is missing"]),
        (
            'roles = ["AUDITOR"]',
            'roles = ["AUDITER"]',
            ["jinku.toml:12", "`realm.services[1].roles[0]`", "'AUDITOR'"],
        ),
        (
            'name = "auditor"',
            'nam = "auditor"',
            ["jinku.toml:11", "`realm.services[1].nam`", "did you mean `name`"],
        ),
        ('name = "auditor"', 'name = "Audi tor"', ["`realm.services[1].name`", "form ^[a-z0-9]"]),
        ('"0.0.0.0:7443"', '"0.0.0.0:65536"', ["`server.listen`", "port is 0 to 65535"]),
        ('"0.0.0.0:7443"', '"nowhere"', ["jinku.toml:21", "`server.listen`", "form"]),
        ('"0.0.0.0:7443"', '"0.0.0.0:7443"\ncalls_max = 0', ["`server.calls_max`", "(is 0)"]),
        (
            '"0.0.0.0:7443"',
            '"0.0.0.0:7443"\ndrain_seconds = 601.5',
            ["`server.drain_seconds`", "less than or equal to 600", "(is 601.5)"],
        ),
        ("[storage]", "[storage", ["not TOML", "line 14"]),
        ("[keys]\n", "", ["storage.directory", "not TOML"][1:]),
    ],
)
def test_mistakes(tmp_path: Path, wrong: str, right: str, expected: Sequence[str]) -> None:
    assert wrong in FILE
    text = complaint(tmp_path, FILE.replace(wrong, right, 1))
    for part in expected:
        assert part in text


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    text = complaint(tmp_path, FILE.replace("listen", "lisen").replace("number = 1", "number = 0"))
    assert len(text.splitlines()) == 2


def test_texts_are_never_quoted_back(tmp_path: Path) -> None:
    """A secret in the wrong place does not end up in a terminal or a log."""
    for change in (
        ('listen = "0.0.0.0:7443"', 'listen = "hunter2 hunter2"'),
        ('listen = "0.0.0.0:7443"', 'password = "hunter2"'),
        ("number = 1", 'number = "hunter2"'),
        ('profile = "production"', 'profile = "hunter2"'),
        ('profile = "production"', 'profile = "hunter2'),
        ('roles = ["AUDITOR"]', 'roles = "hunter2"'),
    ):
        assert "hunter2" not in complaint(tmp_path, FILE.replace(*change))
    assert "hunter2" not in complaint(tmp_path, FILE, SERVER__LISTEN="hunter2")
    assert "hunter2" not in complaint(tmp_path, FILE, SERVER__LISEN="hunter2")
    assert "hunter2" not in complaint(tmp_path, FILE, REALM__SERVICES="[hunter2")


def test_environment_goes_before_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        FILE,
        SERVER__LISTEN="[::1]:0",
        SERVER__CALLS_MAX="7",
        SEQUENCER__QUEUE_MAX="9",
        PORTAL__LIVE_CHALLENGE_SECONDS="1.5",
        REALM__SERVICES='[{name = "teller", roles = ["AUDITOR"]}]',
        STORAGE__DIRECTORY="elsewhere",
    )
    assert (settings.server.listen, settings.server.calls_max) == ("[::1]:0", 7)
    assert settings.sequencer.queue_max == 9
    assert settings.portal.live_challenge_seconds == 1.5
    assert [service.name for service in settings.realm.services] == ["teller"]
    assert settings.storage.directory == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SERVER__LISEN", "x", "JINKU_SERVER__LISEN names no setting; did you mean "
                               "`JINKU_SERVER__LISTEN`?"),
        ("SERVER_LISTEN", "x", "did you mean `JINKU_SERVER__LISTEN`?"),
        ("SERVER", "x", "JINKU_SERVER names no setting"),
        ("SERVER__CALLS_MAX", "many", "JINKU_SERVER__CALLS_MAX: should be a valid integer"),
        ("SERVER__CALLS_MAX", "", "JINKU_SERVER__CALLS_MAX: should be a valid integer"),
        ("SERVER__LISTEN", "x", "JINKU_SERVER__LISTEN: is not of the form"),
        ("REALM__SERVICES", "[x", "JINKU_REALM__SERVICES: not a TOML value"),
    ],
)  # fmt: skip
def test_wrong_variables(tmp_path: Path, variable: str, value: str, expected: str) -> None:
    assert expected in complaint(tmp_path, FILE, **{variable: value})


def test_variables_that_are_no_settings(tmp_path: Path) -> None:
    path = tmp_path / "jinku.toml"
    path.write_text(FILE, encoding="utf-8")
    load_settings(path, {CONFIG_VARIABLE: "x", "JINKU_NO_SKIPS": "1", "PATH": "/bin"})


def test_variables_of_the_client_are_let_pass() -> None:
    texts = [read(path) for path in select("clients/python/src/jinku/")]
    used = {name for text in texts for name in re.findall(r"envvar=\"(JINKU_\w+)\"", text)}
    assert used
    assert used <= NOT_SETTINGS


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read"):
        load_settings(tmp_path / "nowhere.toml", {})
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# \xe4\n")
    with pytest.raises(SettingsError, match="not UTF-8 at byte 2"):
        load_settings(path, {})


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("realm", "number"), 2),
        (("realm", "services", 0, "name"), 7),
        (("realm", "services", 1, "name"), 11),
        (("realm", "services", 1, "roles", 0), 12),
        (("server", "client_ca"), 24),
        (("server", "absent"), 20),
        (("nowhere",), None),
    ],
)
def test_lines(key: tuple[str | int, ...], line: int | None) -> None:
    assert find_line(FILE, key) == line


# ── profiles and certificates ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:7443", "bank.example:1"])
@pytest.mark.parametrize("setting", ["LISTEN", "METRICS_LISTEN"])
def test_demonstration_listens_on_loopback_only(tmp_path: Path, setting: str, listen: str) -> None:
    directory = found(tmp_path)
    with (
        pytest.raises(SettingsError, match=f"server.{setting.lower()}: the demonstration profile"),
        serving(directory, **{f"SERVER__{setting}": listen}),
    ):
        pytest.fail("was opened")


def test_production_refuses_the_demonstration_ca(tmp_path: Path) -> None:
    directory = found(tmp_path)
    with (
        pytest.raises(SettingsError, match=r"server\.certificate: comes from a demonstration CA"),
        serving(directory, REALM__PROFILE="production"),
    ):
        pytest.fail("was opened")
    # Nor does a certificate of one's own help while callers would be of the demonstration's CA.
    own = bank_certificates(tmp_path / "bank")
    with (
        pytest.raises(SettingsError, match=r"server\.client_ca: comes from a demonstration CA"),
        serving(
            directory,
            REALM__PROFILE="production",
            SERVER__CERTIFICATE=str(own.certificate),
            SERVER__PRIVATE_KEY=str(own.private_key),
        ),
    ):
        pytest.fail("was opened")


def bank_certificates(directory: Path) -> CertificateFiles:
    ca, _ = make_ca(directory)
    return make_certificate(directory, "server", ca, server_names())


def test_production_runs_with_a_ca_of_its_own(tmp_path: Path) -> None:
    directory = found(tmp_path)
    own = bank_certificates(tmp_path / "bank")
    with serving(
        directory,
        REALM__PROFILE="production",
        SERVER__CERTIFICATE=str(own.certificate),
        SERVER__PRIVATE_KEY=str(own.private_key),
        SERVER__CLIENT_CA=str(tmp_path / "bank" / "ca.pem"),
    ):
        pass


def test_server_files_are_checked_before_the_first_handshake(tmp_path: Path) -> None:
    directory = found(tmp_path)
    certificates = directory / "certificates"
    variables = {"JINKU_SERVER__PRIVATE_KEY": str(certificates / "service-auditor.key")}
    with pytest.raises(SettingsError, match=r"is not the key of server\.certificate"):
        check_server_files(load_settings(directory / "jinku.toml", variables))
    settings = load_settings(directory / "jinku.toml", {})
    settings.server.private_key.chmod(0o640)
    with pytest.raises(SettingsError, match="others may read"):
        check_server_files(settings)
    settings.server.private_key.chmod(0o600)
    settings.server.client_ca.write_text("nothing")
    with pytest.raises(SettingsError, match=r"server\.client_ca: .* holds no PEM certificate"):
        check_server_files(settings)
    settings.server.certificate.unlink()
    with pytest.raises(SettingsError, match=r"server\.certificate: .* cannot be read"):
        check_server_files(settings)


def test_expired_certificates_are_named(tmp_path: Path) -> None:
    directory = found(tmp_path)
    bank = tmp_path / "bank"
    ca, _ = make_ca(bank)
    make_certificate(bank, "server", ca, server_names(), days=-0.01)
    variables = {
        "JINKU_SERVER__CERTIFICATE": str(bank / "server.pem"),
        "JINKU_SERVER__PRIVATE_KEY": str(bank / "server.key"),
    }
    with pytest.raises(SettingsError, match="expired on"):
        check_server_files(load_settings(directory / "jinku.toml", variables))


def test_services_are_fixed_at_the_founding(tmp_path: Path) -> None:
    directory = found(tmp_path)
    with (
        pytest.raises(SettingsError, match=r"realm\.services: differs .* about auditor, cashier"),
        serving(
            directory,
            REALM__SERVICES='[{name="registrar",roles=["REGISTRAR"]},'
            '{name="cashier",roles=["AUDITOR"]}]',
        ),
    ):
        pytest.fail("was opened")


# ── documentation ───────────────────────────────────────────────────────────────────────────────


def list_settings(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in model.model_fields.items():
        kind: Any = info.annotation
        inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
        is_table = isinstance(inner, type) and issubclass(inner, BaseModel)
        if not is_table or inner is not kind:
            yield above + name, info
        if is_table:
            yield from list_settings(inner, f"{above}{name}.")


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(
        re.findall(r"^\| `([a-z_.]+)` \| ([^|]+?) \|", read("docs/configuration.md"), re.MULTILINE)
    )
    settings = dict(list_settings(Settings))
    assert rows.keys() == settings.keys()
    for key, info in settings.items():
        default = info.get_default(call_default_factory=False)
        if info.is_required():
            assert rows[key] == "–", key
        elif default in {"", (), None}:
            assert rows[key] == "none", key
        else:
            assert rows[key].strip("`") == str(default), key


def test_documented_metrics_are_those_there_are() -> None:
    named = set(re.findall(r"`(jinku_[a-z_]+?)(?:_total)?`", read("docs/operations.md")))
    assert named == {family.name for family in Metrics().registry.collect()}
