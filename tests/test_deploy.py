"""What `deploy/` holds, tried with what it is for: systemd and its confinement, Prometheus, Grafana's questions."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from filled import LISTED
from recordings import DATA
from tap import RunningTap, environment, eventually, hep3, hepduck, sip
from world import programs
from world.confined import values
from world.ports import free_port

from pipeline.ingest.recordings import read_recording
from pipeline.protocols.hep import decode, encode

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
COMMAND = "/opt/hepduck/bin/hepduck"
KEY = b"the agents key"


def run(*words: object, cwd: Path | None = None) -> str:
    """A program that must succeed; all that it said."""
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# -- systemd ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_what_systemd_understands_and_calls_safe(unit: Path, tmp_path: Path) -> None:
    installed = Path(sys.prefix) / "bin" / "hepduck"
    for other in UNITS:
        (tmp_path / other.name).write_text(other.read_text().replace(COMMAND, str(installed)))
    assert run("systemd-analyze", "verify", tmp_path / unit.name) == ""
    said = run("systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", unit)
    assert re.search(rf"Overall exposure level for {unit.name}: [01]\.\d OK", said), said[-300:]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_commands_that_there_are(unit: Path, tmp_path: Path) -> None:
    starts = values(unit, "ExecStart")
    assert starts
    assert not values(unit, "ExecStartPre"), (
        "systemd tries that again whatever its exit code; a database may be away"
    )
    for line in starts:
        program, command, *options = line.split()
        assert program == COMMAND
        assert command in LISTED
        text = hepduck(command, "--help", cwd=tmp_path).stdout
        for option in options:
            assert not option.startswith("-") or option in text, f"hepduck {command} has no {option}"


def test_a_tap_confined_as_its_unit(tmp_path: Path) -> None:
    """All its work with no more than the unit allows: receive, find, store, serve readers and metrics, drain."""
    unit = DEPLOY / "systemd" / "hepduck.service"
    listen = f"127.0.0.1:{free_port()}"
    tap = RunningTap(
        tmp_path, variables={"HEPDUCK_METRICS__LISTEN": listen}, listen=["udp:127.0.0.1:0", "tcp:127.0.0.1:0"]
    )
    tap._argv = [sys.executable, str(Path(__file__).parent / "world" / "confined.py"), str(unit), *tap._argv]
    with tap:
        with Path(f"/proc/{tap.pid}/status").open() as status:
            assert re.search(r"NoNewPrivs:\s+1\nSeccomp:\s+2\n", status.read())
        tap.send(DATA / "kamailio" / "b.hep", options=["--speed", "max", "--now"])
        tap.send(DATA / "kamailio" / "b.hep", via="tcp")
        tap.wait_for(lambda status: status["findings"].get("late_register"), "the ghost call")
        tap.settled(28)
        assert len(tap.rows("SELECT * FROM sip")) == 28
        with urllib.request.urlopen(f"http://{listen}/metrics", timeout=10) as answer:
            assert b"hepduck_stored_total 28.0" in answer.read()
        assert tap.stop() == 0


# -- logrotate -------------------------------------------------------------------------------------------


def test_a_log_is_rotated_under_the_tap_that_writes_it(tmp_path: Path) -> None:
    """Nothing is lost, and what comes afterwards is at the head of the file."""
    shipped = DEPLOY / "logrotate" / "hepduck"
    said = run(programs.find("logrotate"), "-d", "-s", tmp_path / "none", shipped)
    assert "error" not in said and "14 rotations" in said
    tap = RunningTap(tmp_path, "--set", "log.format=json", configuration=tmp_path / "hepduck.toml")
    (tmp_path / "hepduck.toml").write_text("")
    rules = tmp_path / "logrotate"
    rules.write_text(shipped.read_text().replace("/var/log/hepduck", str(tmp_path)))
    rules.chmod(0o644)
    with tap:
        written = tap.log_file.read_text()
        assert '"event": "listening"' in written
        run(programs.find("logrotate"), "-f", "-s", tmp_path / "state", rules)
        assert (tmp_path / "tap.log.1").read_text() == written
        assert tap.process
        tap.process.send_signal(signal.SIGHUP)
        eventually(lambda: "\n" in tap.log(), "a line about the reload")
        assert tap.stop() == 0
    events = [json.loads(line)["event"] for line in tap.log().splitlines()]
    assert "listening" not in events and events[-1] == "stopped"


# -- Docker ----------------------------------------------------------------------------------------------


def test_what_docker_is_told() -> None:
    """There is no daemon here to build it: that files, commands and settings are real is what can be said."""
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    for sources in re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", dockerfile):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}\n" in (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text()
    for words in re.findall(r"^(?:CMD|HEALTHCHECK .* CMD) (\[.*\])$", dockerfile, re.MULTILINE):
        assert json.loads(words)[-1] in LISTED
    compose = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
    assert {name: service["command"] for name, service in compose["services"].items()} == {
        "tap": ["run"],
        "app": ["app"],
    }
    for service in compose["services"].values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


def test_settings_that_docker_is_given(tmp_path: Path) -> None:
    """They are read, and mean what they should."""
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    given = dict(re.findall(r"(HEPDUCK_\w+)='?(.*?)'?(?: \\)?$", dockerfile, re.MULTILINE))
    compose = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
    for service in compose["services"].values():
        given |= service.get("environment", {})
    assert len(given) >= 4
    done = hepduck("check", "--dump", "--json", cwd=tmp_path, **given)
    assert done.returncode == 0, done.stderr
    sources = {row["source"] for row in map(json.loads, done.stdout.splitlines())}
    assert {f"${name}" for name in given} <= sources


# -- Prometheus and Grafana ------------------------------------------------------------------------------


def test_alert_rules_and_their_own_tests() -> None:
    folder = ALERTS.parent
    run("promtool", "check", "rules", "--lint-fatal", ALERTS)
    run("promtool", "check", "config", folder / "prometheus.yml")
    run("promtool", "test", "rules", folder / "alerts.test.yml")
    alerts = {
        rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    }
    tests = yaml.safe_load((folder / "alerts.test.yml").read_text())["tests"]
    fired = {test["alertname"] for each in tests for test in each["alert_rule_test"] if test["exp_alerts"]}
    assert fired == alerts
    guide = (ROOT / "docs" / "operators-guide.md").read_text()
    assert [alert for alert in alerts if f"`{alert}`" not in guide] == []


def expressions(value: Any) -> Iterator[str]:
    """Every PromQL expression in a dashboard or a file of rules."""
    if isinstance(value, dict):
        if isinstance(value.get("expr"), str):
            yield value["expr"]
        for each in value.values():
            yield from expressions(each)
    elif isinstance(value, list):
        for each in value:
            yield from expressions(each)


# The longest reasonable spans: a scrape may be late on a busy machine.
VARIABLES = {'instance=~"$instance"': 'instance=~".*"', "$__rate_interval": "1m", "$__range": "1m"}


def asked(expression: str) -> str:
    """An expression as Grafana sends it."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


DASHBOARD = json.loads((DEPLOY / "grafana" / "hepduck.json").read_text())
RULES = yaml.safe_load(ALERTS.read_text())


class Prometheus:
    """A real one, that scrapes a tap each second."""

    def __init__(self, folder: Path, target: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        config = (ALERTS.parent / "prometheus.yml").read_text()
        config = (
            config.replace("127.0.0.1:9096", target).replace("15s", "1s").replace("alerts.yml", str(ALERTS))
        )
        (folder / "prometheus.yml").write_text(config)
        argv = [
            programs.find("prometheus"),
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={self.address}",
            "--log.level=error",
        ]
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(argv, cwd=folder, env=environment(), stdout=log, stderr=log)
        eventually(self._is_ready, "Prometheus")

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.address}{path}?{query}", timeout=10) as answer:
            found = json.loads(answer.read())
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expression: str) -> list[Any]:
        found: list[Any] = self.ask("/api/v1/query", query=expression)["result"]
        return found

    def samples(self, name: str) -> int:
        """How often a metric was scraped with different times, at least, in each of its series."""
        return min((len(series["values"]) for series in self.query(f"{name}[5m]")), default=0)

    def stop(self) -> None:
        programs.stop(self._process)

    def _is_ready(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=1).status == 200)
        except OSError:
            return False


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Has scraped a tap for some seconds to which everything happened that has a number."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "Master.csv").write_text("")
    (folder / "hepduck.toml").write_text(
        f'[tap]\nauth_key = "{KEY.decode()}"\n[[cdr]]\nname = "cdr"\nsource = "Master.csv"\n'
        'preset = "cdr_csv"\nzone = "UTC"\ninterval = "1s"\n'
    )
    listen = f"127.0.0.1:{free_port()}"
    tap = RunningTap(
        folder, configuration=folder / "hepduck.toml", variables={"HEPDUCK_METRICS__LISTEN": listen}
    )
    ghost = [packet for one in read_recording(DATA / "kamailio" / "b.hep") for packet in decode(one.data)]
    with tap:
        made = Prometheus(folder, listen)
        try:
            eventually(lambda: made.samples("hepduck_received_total") >= 2, "the first scrapes")
            with tap.connected() as sock:
                for number in range(20):
                    user, call = b"b%02d" % number, b"ae449999%02d" % number
                    for packet in ghost if number % 10 == 0 else ghost[:2]:
                        payload = packet.payload.replace(b"bob", user).replace(b"ae44999ea7", call)
                        sock.send(encode(packet._replace(auth_key=KEY, payload=payload)))
                    sock.send(hep3(sip("OPTIONS sip:bob@sip.test SIP/2.0", f"{number}@x")))
                    sock.send(hep3(b"no SIP", auth_key=KEY))
                    time.sleep(0.2)
            for name in ("weird", "rejected", "findings", "actions", "sip_messages", "cdr_rows"):
                eventually(lambda name=name: made.samples(f"hepduck_{name}_total") >= 3, name)
            yield made
        finally:
            made.stop()
        tap.stop()


def test_every_expression_names_what_a_tap_exports(prometheus: Prometheus) -> None:
    """Grafana's and the alerts': Prometheus understands each, and knows each metric in it."""
    known = set(prometheus.ask("/api/v1/label/__name__/values"))
    every = [*expressions(DASHBOARD), *expressions(RULES)]
    assert len(every) > 35
    for expression in map(asked, every):
        prometheus.query(expression)
        assert set(re.findall(r"\b(?:hepduck_\w+|up)\b", expression)) <= known, expression


def test_panels_show_something(prometheus: Prometheus) -> None:
    """Each has a line at least, but those that need armed actions and errors."""
    targets = {
        panel["title"]: panel.get("targets") for panel in DASHBOARD["panels"] if panel["type"] != "row"
    }
    empty = {
        title
        for title, each in targets.items()
        if not any(prometheus.query(asked(target["expr"])) for target in each)
    }
    assert len(targets) > 15
    assert empty == {"Server errors and refusals by method"}


def test_alerts_are_loaded_and_quiet(prometheus: Prometheus) -> None:
    """By a Prometheus that runs with them; of these only strangers without a key are real here."""
    groups = prometheus.ask("/api/v1/rules")["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert len(rules) == len(list(expressions(RULES)))
    assert {rule["health"] for rule in rules.values()} <= {"ok", "unknown"}
    firing = {name for name, rule in rules.items() if rule["state"] == "firing"}
    assert firing <= {"HepduckAttack"}
    assert rules["HepduckRejects"]["state"] == "pending"
    assert {target["health"] for target in prometheus.ask("/api/v1/targets")["activeTargets"]} == {"up"}
