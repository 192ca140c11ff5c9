"""Where settings come from, and what is said when one is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tap import hepduck

SECRETS = ("s3cret-of-the-tap", "s3cret-of-the-proxy", "s3cret-of-the-hook", "s3cret-in-the-url")


def dumped(*arguments: str, cwd: Path, **variables: str) -> dict[str, tuple[Any, str]]:
    """`check --dump` as key -> (value, source); both forms say the same."""
    done = hepduck("check", "--dump", "--json", *arguments, cwd=cwd, **variables)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    plain = hepduck("check", "-D", *arguments, cwd=cwd, **variables).stdout.splitlines()
    assert plain == [f"{row['key']} = {json.dumps(row['value'])}    # {row['source']}" for row in rows]
    for secret in SECRETS:
        assert secret not in done.stdout
    return {row["key"]: (row["value"], row["source"]) for row in rows}


def test_where_settings_come_from(tmp_path: Path) -> None:
    """Command line over environment over file over default; `hepduck.toml` is read unasked."""
    (tmp_path / "hepduck.toml").write_text(
        f"""
        node = "of the file"
        [tap]
        auth_key = "{SECRETS[0]}"
        max_connections = 10
        idle_timeout = "10m"
        [detectors.late_register]
        window = "20s"
        aliases = {{ "1@sip.test" = "bob@sip.test" }}
        [actions.fake_call]
        secret = "{SECRETS[1]}"
        [actions.webhook]
        url = "https://user:{SECRETS[3]}@hooks.example/x"
        bearer_token = "{SECRETS[2]}"
        """
    )
    got = dumped(
        "--set=detectors.late_register.window=40s",
        "--store=elsewhere",
        cwd=tmp_path,
        HEPDUCK_DETECTORS__LATE_REGISTER__WINDOW="30s",
        HEPDUCK_TAP__MAX_CONNECTIONS="20",
        HEPDUCK_STORE__PATH="of the environment",
    )
    assert got["node"] == ("of the file", "hepduck.toml")
    assert got["tap.idle_timeout"] == ("10m", "hepduck.toml")
    assert got["tap.max_connections"] == (20, "$HEPDUCK_TAP__MAX_CONNECTIONS")
    assert got["store.path"] == ("elsewhere", "command line")
    assert got["detectors.late_register.window"] == ("40s", "command line")
    assert got["detectors.late_register.aliases.1@sip.test"] == ("bob@sip.test", "hepduck.toml")
    assert got["detectors.late_register.grace"] == ("500ms", "default")
    for key in ("tap.auth_key", "actions.fake_call.secret", "actions.webhook.bearer_token"):
        assert got[key] == ("**********", "hepduck.toml")
    assert dumped("--no-config", cwd=tmp_path)["tap.max_connections"] == (256, "default")


ENVIRONMENT: dict[str, tuple[str, Any]] = {
    "HEPDUCK_NODE": ("edge-1", "edge-1"),
    "HEPDUCK_TAP__LISTEN": ('["udp:127.0.0.1:0", "tcp:127.0.0.1:0"]', ["udp:127.0.0.1:0", "tcp:127.0.0.1:0"]),
    "HEPDUCK_TAP__IDLE_TIMEOUT": ("5m", "5m"),
    "HEPDUCK_TAP__RECEIVE_BUFFER_BYTES": ("65536", 65536),
    "HEPDUCK_STORE__PATH": ("/var/lib/elsewhere", "/var/lib/elsewhere"),
    "HEPDUCK_STORE__WRITER__SERVE_READERS": ("false", False),
    "HEPDUCK_STORE__WRITER__FLUSH_INTERVAL": ("250ms", "250ms"),
    "HEPDUCK_ENGINE__MAX_CALLS": ("77", 77),
    "HEPDUCK_RULES__HALT": ("true", True),
    "HEPDUCK_METRICS__LISTEN": ("127.0.0.1:9096", "127.0.0.1:9096"),
    "HEPDUCK_LOG__LEVEL": ("error", "error"),
    "HEPDUCK_DETECTORS__LATE_REGISTER__WINDOW": ("20s", "20s"),
    "HEPDUCK_DETECTORS__LATE_REGISTER__OUTCOMES": ('["busy"]', ["busy"]),
    "HEPDUCK_DETECTORS__LATE_REGISTER__DEVICES__USER_AGENT": ("[Pp]hone", "[Pp]hone"),
    "HEPDUCK_ACTIONS__FAKE_CALL__ENABLED": ("true", True),
    "HEPDUCK_ACTIONS__FAKE_CALL__PROXY": ("sip:127.0.0.1:5070", "sip:127.0.0.1:5070"),
    "HEPDUCK_ACTIONS__FAKE_CALL__RING_WAIT": ("2s", "2s"),
}  # fmt: skip


def test_every_kind_of_key_by_environment(tmp_path: Path) -> None:
    """Texts, numbers, yes and no, durations, lists; the tables of plugins, too."""
    got = dumped(cwd=tmp_path, **{name: text for name, (text, _) in ENVIRONMENT.items()})
    for name, (_, value) in ENVIRONMENT.items():
        key = name.removeprefix("HEPDUCK_").lower().replace("__", ".")
        assert got[key] == (value, f"${name}")
    aliases = dumped(cwd=tmp_path, HEPDUCK_DETECTORS__LATE_REGISTER__ALIASES='{"7@a": "b@a"}')
    assert aliases["detectors.late_register.aliases.7@a"][0] == "b@a"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HEPDUCK_TAP_AUTH_KEY", "k", ["did you mean HEPDUCK_TAP__AUTH_KEY?"]),
        ("HEPDUCK_TAP__AUTHKEY", "k", ["tap.authkey", "did you mean auth_key?"]),
        ("HEPDUCK_TAP__LISTEN", "udp:127.0.0.1:0", ["tap.listen", "list"]),
        ("HEPDUCK_TAP__MAX_CONNECTIONS", "many", ["tap.max_connections", "integer"]),
        ("HEPDUCK_NOTHING", "x", ["unknown key nothing"]),
    ],
)
def test_a_mistake_in_the_environment(name: str, value: str, words: list[str], tmp_path: Path) -> None:
    """Named, never passed over: a key that nobody reads would leave the tap open."""
    done = hepduck("check", cwd=tmp_path, **{name: value})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    for word in [f"${name}", *words]:
        assert word in line


def test_check(tmp_path: Path) -> None:
    """A line for each thing that was looked at; exit code 2 when one is wrong."""
    good = hepduck("check", "--no-config", "--set", 'tap.listen=["udp:127.0.0.1:0"]', cwd=tmp_path)
    assert good.returncode == 0
    looked_at = [line.split()[:2] for line in good.stdout.splitlines()]
    assert {what for ok, what in looked_at if ok == "ok"} >= {"detectors:", "actions:", "listen:", "store:"}
    assert {ok for ok, _ in looked_at} == {"ok"}
    assert "dry run" in good.stdout
    assert not (tmp_path / "hepduck-data").exists()
    (tmp_path / "file").touch()
    bad = hepduck(
        *("check", "--json", "--no-config", "--store", "file/store"),
        *("--set", "detectors.late_register.match=nearly", "--set", "tap.listen=[]"),
        cwd=tmp_path,
    )
    assert (bad.returncode, bad.stderr) == (2, "")
    rows = {row["what"]: row for row in map(json.loads, bad.stdout.splitlines())}
    assert {what for what, row in rows.items() if not row["ok"]} == {"detectors", "listen", "spool", "store"}
    armed = hepduck(
        *("check", "--no-config", "--set", "actions.fake_call.enabled=true"),
        *("--set", "actions.fake_call.dry_run=false", "--set", 'tap.listen=["udp:127.0.0.1:0"]'),
        cwd=tmp_path,
    )
    assert "armed: fake_call" in armed.stdout
