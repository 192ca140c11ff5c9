"""Coverage-guided fuzzing of everything that reads strangers' bytes, for as long as you like.

    python -m benchmarks.fuzz TARGET [--seconds 300] [--corpus DIR] [--seed 1]

Targets are those of `tests/fuzz_targets.py` (hep, stream, sip, rtcp, cdr, search), each with what must hold; atheris
mutates, beginning with the recordings under `tests/data`, and follows the branches that our code takes. `tap` is
another thing: hostile datagrams and streams to a running tap (`--datagrams N --streams N`).
Exit code 1 when something was found; the input that did it is kept, and named. Put it under `tests/data/fuzz/TARGET`:
`tests/test_fuzz.py` tries it from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = ("hep", "stream", "sip", "rtcp", "cdr", "search")
_SLOW_S = 5  # for one input; all of them are a few kB


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz one parser, or the whole tap.")
    parser.add_argument("target", choices=[*NAMES, "tap"])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument(
        "--corpus", type=Path, help="keep what was learnt there, and go on from it [default: forget it]"
    )
    parser.add_argument("--seed", type=int, default=1)
    wanted, rest = parser.parse_known_args()
    if wanted.target == "tap":
        from benchmarks.fuzz import tap  # noqa: PLC0415  needs no atheris

        tap.main([*rest, "--seed", str(wanted.seed)])
        return
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    with tempfile.TemporaryDirectory(prefix="hepduck-fuzz-") as scratch:
        _fuzz(
            wanted.target,
            wanted.seconds,
            wanted.corpus or Path(scratch) / "corpus",
            Path(scratch),
            wanted.seed,
        )


def _fuzz(target: str, seconds: int, corpus: Path, scratch: Path, seed: int) -> None:
    try:
        import atheris  # noqa: PLC0415
    except ImportError:
        print("atheris is not installed: pip install -c constraints.txt atheris", file=sys.stderr)
        raise SystemExit(2) from None
    sys.path.insert(0, str(ROOT / "tests"))
    with atheris.instrument_imports(include=["pipeline.protocols", "pipeline.ingest.cdr", "pipeline.store"]):
        import fuzz_seeds  # noqa: PLC0415
        import fuzz_targets  # noqa: PLC0415

    check, max_bytes, words = fuzz_targets.TARGETS[target]
    corpus.mkdir(parents=True, exist_ok=True)
    for data in fuzz_seeds.seeds(target):
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data[:max_bytes])
    dictionary = scratch / "words"
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in words))
    limits = [f"-max_total_time={seconds}", f"-max_len={max_bytes}", f"-timeout={_SLOW_S}", f"-seed={seed}"]
    kept = [f"-artifact_prefix={Path.cwd()}/found-{target}-", f"-dict={dictionary}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, *kept, "-rss_limit_mb=2048", str(corpus)], check)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
