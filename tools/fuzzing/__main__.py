"""Damages inputs at random and reads them: nothing may crash, hang, run code or err in silence.

    bash tools/fuzz                                       # 200 cases of each reader
    bash tools/fuzz --reader coco --cases 5000            # more of one
    bash tools/fuzz --reader coco --seconds 60 --seed 17  # as many as fit into a minute
    bash tools/fuzz --reader coco --seed 17 --case 123    # one case again, with its verdict

Each case is a valid input with one random change. It is read in a child process with limits: 10 s
of processor time, 2 GiB of memory beside what the process had, no other process, no file outside a
scratch folder, no import of code that is not installed, no network. A reader must read the input,
or refuse it by one clear sentence that names the file. Anything else is a finding: it is listed
under the table, and its input is saved in the folder of --findings. The exit status is 1 if there
are findings.
"""

import argparse
import collections
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

from fuzzing.harness import Fuzzer, Reader, read_tree, write_tree
from fuzzing.mutators import flip_one_bit, mutate_tree
from fuzzing.verdicts import FINDINGS, OK, REFUSED, Verdict

HEAD = ("reader", "cases", "read", "refused", "findings", "slowest s", "most MiB", "cases/s")


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzzes, prints the table and the findings, and returns the exit status."""
    args = _parse_arguments(argv)
    readers = load_readers()
    chosen = args.reader or [name for name in readers if name not in args.skip]
    if unknown := set(chosen) - set(readers):
        print(f"no reader {sorted(unknown)}; there are {', '.join(readers)}", file=sys.stderr)
        return 2
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    found = []
    for name in chosen:
        started, verdicts = time.monotonic(), []
        with tempfile.TemporaryDirectory(prefix="segjax-fuzz-") as scratch:
            mutate = flip_one_bit if args.bits else mutate_tree
            fuzzer = Fuzzer(readers[name], args.seed, pathlib.Path(scratch), mutate)
            tree = read_tree(args.input) if args.input else None
            cases = range(args.first, args.first + args.cases) if args.case is None else [args.case]
            for verdict in fuzzer.run(cases, tree):
                verdicts.append(verdict)
                if args.case is not None or (verdict.is_finding and args.verbose):
                    print(f"{name} {verdict.case}: {verdict.kind}. {verdict.detail}", flush=True)
                if verdict.is_finding and args.findings:
                    _save(args.findings, fuzzer, verdict)
                if args.seconds and time.monotonic() - started > args.seconds:
                    break
        print(format_row(name, verdicts, time.monotonic() - started), flush=True)
        found += [(name, verdict) for verdict in verdicts if verdict.is_finding]
    print("\n".join(describe_findings(found, f"--seed {args.seed}{' --bits' * args.bits}")))
    return 1 if found else 0


def load_readers() -> dict[str, Reader]:
    """Imports all readers, so that children need not, and returns them by name."""
    from fuzzing import (
        image_readers,
        prepared_readers,
        prompt_readers,
        raw_readers,
        weight_readers,
    )

    modules = (image_readers, raw_readers, prepared_readers, weight_readers, prompt_readers)
    return {reader.name: reader for module in modules for reader in module.READERS}


def format_row(name: str, verdicts: Sequence[Verdict], seconds: float) -> str:
    """Formats the line of a reader in the table."""
    kinds = collections.Counter(verdict.kind for verdict in verdicts)
    findings = ", ".join(f"{kinds[kind]} {kind}" for kind in FINDINGS if kinds[kind]) or "0"
    slowest = max((verdict.seconds for verdict in verdicts), default=0)
    memory = max((verdict.memory for verdict in verdicts), default=0) / 2**20
    numbers = (len(verdicts), kinds[OK], kinds[REFUSED], findings)
    speed = len(verdicts) / max(seconds, 1e-9)
    cells = (name, *numbers, f"{slowest:.1f}", f"{memory:.0f}", f"{speed:.0f}")
    return f"| {' | '.join(map(str, cells))} |"


def describe_findings(found: Sequence[tuple[str, Verdict]], options: str) -> list[str]:
    """Describes each kind of finding once, with the command that repeats the first of them."""
    groups = collections.defaultdict(list)
    for name, verdict in found:
        groups[name, verdict.kind, verdict.detail[:60]].append(verdict)
    return [
        f"{name}: {kind}, {len(verdicts)} cases: {verdicts[0].detail[:400]!r}\n"
        f"    bash tools/fuzz --reader {name} {options} --case {verdicts[0].case}"
        for (name, kind, _), verdicts in groups.items()
    ]


def _save(folder: pathlib.Path, fuzzer: Fuzzer, verdict: Verdict) -> None:
    """Saves the damaged input and the verdict."""
    target = folder / f"{fuzzer.reader.name}-{fuzzer.seed}-{verdict.case}"
    write_tree(target / "input", fuzzer.make_case(verdict.case)[1])
    (target / "verdict.json").write_text(json.dumps(vars(verdict), indent=1) + "\n")


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--reader", nargs="+", metavar="NAME", help="readers (default: all)")
    parser.add_argument(
        "--skip", nargs="+", default=[], metavar="NAME", help="readers to leave out"
    )
    parser.add_argument("--cases", type=int, default=200, metavar="N", help="cases of each reader")
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="number of the first case"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="stop a reader after S seconds")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the changes")
    parser.add_argument("--case", type=int, metavar="N", help="run this case alone")
    parser.add_argument("--bits", action="store_true", help="flip a single bit in each case")
    parser.add_argument("--verbose", action="store_true", help="print each finding at once")
    parser.add_argument(
        "--input", type=pathlib.Path, metavar="DIR", help="with --case: read this saved input"
    )
    parser.add_argument(
        "--findings", type=pathlib.Path, metavar="DIR", help="folder for the inputs of findings"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
