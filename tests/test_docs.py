"""What the documents promise: their code runs, their commands and settings are there, their words are nobody's path."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from filled import LISTED, Run, run_in_process  # noqa: F401 - a fixture
from pydantic import BaseModel
from recordings import PATHS, load
from tap import RunningTap, call_id_of, environment, ghost_call, hepduck

from detectors.actions.fake_call import FakeCall
from pipeline.cli.pages import pages
from pipeline.engine.plugins import DETECTORS, find
from pipeline.settings import Settings
from pipeline.store.search import KEYS as KEYS_OF_SEARCHES
from pipeline.store.search import STATES

ROOT = Path(__file__).parents[1]
README, CONTRIBUTING, SECURITY = (
    (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")
)
GUIDES = [path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [README, CONTRIBUTING, SECURITY, *GUIDES]
PYTHON, TOML = (
    re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL) for language in ("python", "toml")
)
DETECTOR, ACTION = PYTHON.findall(CONTRIBUTING)
(PAGER,) = TOML.findall(CONTRIBUTING)


@pytest.fixture
def plugins(tmp_path: Path) -> dict[str, str]:
    """The two plugins of CONTRIBUTING.md in a folder; the variable that names it."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "declined.py").write_text(DETECTOR)
    (folder / "pager.py").write_text(ACTION)
    return {"HEPDUCK_PLUGINS_DIR": str(folder)}


def test_the_detector_of_contributing(tmp_path: Path, plugins: dict[str, str]) -> None:
    """It is listed, can be set, and finds the call that its callee declined."""
    listed = hepduck("detectors", "--json", cwd=tmp_path, **plugins)
    rows = {row["name"]: row for row in map(json.loads, listed.stdout.splitlines())}
    assert set(rows) >= {"late_register", "declined"}
    assert rows["declined"]["summary"] == "Reports calls that ended with a 6xx (kind `declined`)."
    assert rows["declined"]["settings"] == {"ignore_users": []}

    # A desk phone's 486 in the recording, made a 603: same length, same way through the proxy.
    data = PATHS["k1"].read_bytes()
    busy = re.search(rb"SIP/2\.0 (486 [^\r]+)\r", data)
    assert busy
    (tmp_path / "declined.hep").write_bytes(data.replace(busy[1], b"603 Decline".ljust(len(busy[1]))))
    done = hepduck("replay", "declined.hep", "--json", cwd=tmp_path, **plugins)
    assert done.returncode == 0, done.stderr
    (found,) = map(json.loads, done.stdout.splitlines())
    call_id = load("k1").label["expected_extended"][0]["call_id"]
    assert (found["kind"], found["call_id"]) == ("declined", call_id)
    assert (found["caller_user"], found["status"]) == ("alice", 603)
    ignoring = ("--set", 'detectors.declined.ignore_users=["alice"]')
    assert hepduck("replay", "declined.hep", "--json", *ignoring, cwd=tmp_path, **plugins).stdout == ""
    assert hepduck("replay", PATHS["b"], "--json", cwd=tmp_path, **plugins).stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "outcome", "detail"),
    [
        ({}, "paged", ""),
        ({"HEPDUCK_ACTIONS__PAGER__DRY_RUN": "true"}, "dry_run", "page 4711 about {call_id}"),
    ],
    ids=["armed", "dry run"],
)
def test_the_action_of_contributing(
    variables: dict[str, str], outcome: str, detail: str, tmp_path: Path, plugins: dict[str, str]
) -> None:
    """Configured as shown there, in a running tap: it acts, or says what it would do."""
    configuration = tmp_path / "pager.toml"
    configuration.write_text(PAGER)
    with RunningTap(tmp_path, variables={**plugins, **variables}, configuration=configuration) as tap:
        tap.send(ghost_call(tmp_path, "ann"), options=["--speed", "8x", "--now"])
        tap.wait_for(lambda status: len(status["actions"]) == 3, "three actions")
        assert tap.stop() == 0
        rows = {row["action"]: row for row in tap.rows("SELECT * FROM action_attempt")}
        assert set(rows) == {"log", "fake_call", "pager"}
        pager = rows["pager"]
        assert (pager["outcome"], pager["call_id"]) == (outcome, call_id_of("ann"))
        assert (pager["detail"] or "") == detail.format(call_id=call_id_of("ann"))


def test_where_plugins_are_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group in ("hepduck.detectors", "hepduck.actions"):
        assert f'[project.entry-points."{group}"]' in CONTRIBUTING
        assert group in project["entry-points"]


# -- commands --------------------------------------------------------------------------------------------


def commands_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each `hepduck ...` that is written as code: the command, and the options with it."""
    for line in re.findall(r"`hepduck ([^`\n]+)`|^(?:\S+/)?hepduck (.+)$", text, re.MULTILINE):
        words = "".join(line).split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in LISTED else words[0]
        yield name, re.findall(r"(?<!\S)(--?[a-z][-a-z]*)", " ".join(words[1:]), re.IGNORECASE)


def test_commands_of_the_documents(tmp_path: Path, run_here: Run) -> None:
    """They are there, with the options that they are shown with."""
    shown: dict[str, set[str]] = {}
    for document in DOCUMENTS:
        for name, options in commands_in(document):
            shown.setdefault(name, set()).update(options)
    assert len(shown) >= 8
    for name, options in shown.items():
        assert name in LISTED, f"there is no `hepduck {name}`"
        if options:
            text = run_here(*name.split(), "--help", cwd=tmp_path).stdout
            for option in options:
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), f"hepduck {name} has no {option}"


def test_pages_of_the_commands() -> None:
    """Each command has one, made of its own help, with two examples: `make docs` writes them."""
    written = {path.name: path.read_text() for path in (ROOT / "docs" / "commands").iterdir()}
    made = pages()
    assert sorted(written) == sorted(made)
    assert [name for name, text in made.items() if written[name] != text] == []
    for command in LISTED:
        text = written[f"{command.replace(' ', '-')}.md"]
        assert text.startswith(f"# hepduck {command}\n")
        (examples,) = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        assert examples.count("\n") == 2 and examples.startswith(f"hepduck {command}")
        assert f"]({command.replace(' ', '-')}.md)" in written["README.md"]
    for name in (*KEYS_OF_SEARCHES, *STATES):
        assert f"| `{name}` |" in written["search.md"]


def test_targets_of_the_documents() -> None:
    """`make X`, wherever it is written."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    written = re.compile(r"(?:`|^|DEMO=stay )make ([a-z]+)", re.MULTILINE)
    named = {target for text in DOCUMENTS for target in written.findall(text)}
    assert {"demo", "test", "lint", "run"} <= named <= targets


def test_files_of_the_documents() -> None:
    """A path that is written as code is there."""
    for text in DOCUMENTS:
        for path in re.findall(r"`((?:pipeline|detectors|deploy|docs|tests|benchmarks)/[\w./-]*)`", text):
            assert (ROOT / path).exists() or path == "detectors/declined.py", path


# -- settings --------------------------------------------------------------------------------------------


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Dotted key and description of every field that holds a value."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description


KEYS = {
    **dict(keys_of(Settings)),
    **{
        key: description
        for name, plugin in find(DETECTORS).items()
        for key, description in [
            *keys_of(plugin.cls.Settings, f"detectors.{name}."),
            (f"detectors.{name}.enabled", "off when false"),
        ]
    },
    **dict(keys_of(FakeCall.Settings, "actions.fake_call.")),
}


# What deploy/kamailio lets a proxy define begins with the same word.
AT_THE_PROXY = {
    name
    for path in (ROOT / "deploy" / "kamailio").glob("*.cfg")
    for name in re.findall(r"HEPDUCK_([A-Z_]+)", path.read_text())
}


def leaves(table: dict[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_every_setting_is_described() -> None:
    assert len(KEYS) > 40
    assert [key for key, description in KEYS.items() if not description] == []


def test_settings_of_the_documents() -> None:
    """In their TOML, in their environment variables, and in passing."""
    named = set()
    for text in DOCUMENTS:
        for block in TOML.findall(text):
            named |= {key for key in leaves(tomllib.loads(block)) if not key.startswith("actions.pager.")}
        for variable in re.findall(r"HEPDUCK_([A-Z_]+)", text):
            if variable not in AT_THE_PROXY:
                named.add(variable.lower().replace("__", "."))
        named |= set(re.findall(r"`((?:tap|store|engine|rules|metrics|log)\.[a-z_.]+)`?", text))
    assert {"tap.auth_key", "actions.fake_call.dry_run", "rules.max_per_minute"} <= named
    assert sorted(named - KEYS.keys()) == []


# -- words -----------------------------------------------------------------------------------------------

# Paths of the machine that this was made on, and where packages came from: neither is anybody else's business.
FOREIGN = re.compile(r"/wor[k]/|/root/|/home/\w|\.pyenv|index-url|find-links|/pypi", re.IGNORECASE)


def test_no_tracked_file_names_a_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    ).stdout
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            found += [f"{name}: {word}" for word in set(FOREIGN.findall(data.decode("utf-8", "replace")))]
    assert found == []
