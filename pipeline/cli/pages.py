"""A page for each command, made of what the command itself says: `python -m pipeline.cli.pages docs/commands`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from pipeline.cli import app
from pipeline.store.search import KEYS, STATES

_EXAMPLES = re.compile(r"\n+Examples?: (.*)", re.DOTALL)
_EXAMPLE = re.compile(r"`(hepduck [^`]+)`")
_SEARCHES = """
    4930123456              a number, in any spelling: +49 30 123456 and 030123456 are the same
    7f3a@10.0.0.5           a part of a Call-ID; bob, bob@sip.test, Linphone: of a name or a User-Agent
    10.0.0.5 10.0.0.0/8     two terms: both hold
    from:bob,carol          either of them
    from=bob                the whole user, not a part of it
    ua:"Linphone iOS"       quotes keep spaces
    to:4930*                * and % stand for any text
    -state:answered         calls without it; !state:answered is the same
    pdd>3s code:4xx,503     numbers; more in the table below
"""


def pages() -> dict[str, str]:
    """Name of the file -> its text."""
    commands = dict(_commands(typer.main.get_command(app), "hepduck"))
    made = {
        f"{name.removeprefix('hepduck ').replace(' ', '-')}.md": _page(name, of)
        for name, of in commands.items()
    }
    listed = [
        f"| [{name}]({file}) | {_first_sentence(of)} |"
        for (name, of), file in zip(commands.items(), made, strict=True)
    ]
    made["README.md"] = "\n".join(["# Commands", "", "| | |", "|---|---|", *listed, "", _EVERYWHERE])
    made["search.md"] = _search_page()
    return made


def write(folder: Path) -> None:
    """Write the pages; those of commands that are no more go."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for file in folder.glob("*.md"):
        if file.name not in made:
            file.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, "utf-8")


_EVERYWHERE = """\
Data goes to stdout, talk to stderr. Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 findings (only with
`--fail-on-findings`), 130 interrupted. `--json` is one object a line, times in ISO 8601; `--csv` has a header line.
Times are given as `1h` (that long ago) or as ISO 8601, in `--zone`, and shown in it.

How calls and messages are searched: [search](search.md). `--install-completion` lets the shell in use complete
commands and options, `--show-completion` prints what it would install.
"""


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def _page(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    records = [
        (param.param_type_name, *param.get_help_record(context))
        for param in command.get_params(context)
        if param.name != "help"
    ]
    lines = [
        f"# {name}",
        "",
        _EXAMPLES.sub("", command.help),
        "",
        "```sh",
        *examples(command.help),
        "```",
        "",
    ]
    lines += [f"`{' '.join([name, *command.collect_usage_pieces(context)])}`", ""]
    for kind in ("argument", "option"):
        if rows := [f"| `{_cell(form)}` | {_cell(text)} |" for of, form, text in records if of == kind]:
            lines += [f"| {kind} | |", "|---|---|", *rows, ""]
    if "search... <list[str]>" in {form for _, form, _ in records}:
        lines += ["What a search may be: [search](search.md).", ""]
    return "\n".join(lines)


def examples(text: str) -> list[str]:
    """The command lines that the help of a command shows."""
    found = _EXAMPLES.search(text)
    return [" ".join(example.split()) for example in _EXAMPLE.findall(found[1])] if found else []


def _first_sentence(command: Any) -> str:
    return _cell(re.split(r"[.:;](?:\s|$)", _EXAMPLES.sub("", command.help))[0])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _search_page() -> str:
    keys = [f"| `{name}` | {key.kind} | {_cell(key.help)} |" for name, key in KEYS.items()]
    states = [f"| `{name}` | {_cell(words)} |" for name, words in STATES.items()]
    return "\n".join(
        [
            *("# Searching calls", ""),
            "Words and terms with spaces between; all of them hold. Case never counts.",
            *(
                "",
                "```",
                _SEARCHES.strip("\n").replace("\n    ", "\n").removeprefix("    ").rstrip(),
                "```",
                "",
            ),
            "With `:` a part of the text will do, with `=` it is the whole; `!=` is `=` with a minus. What is not",
            "known of a call is never found: neither by `r<70` nor by `r>70`. Messages (`hepduck tail`) know some of",
            "the keys only.",
            *("", "| key | values | |", "|---|---|---|", *keys, ""),
            *("| state | |", "|---|---|", *states, ""),
        ]
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
