"""Runs the test suites one after another and prints a table of their results.

    bash tools/test_all --only default parity

Suites are pytest markers (see setup.cfg). Each runs in a process of its own. The exit status is 1
when a test fails, an error occurs, or a suite finds no test; a suite that this machine does not
allow is reported and is no failure.
"""

import argparse
import dataclasses
import os
import pathlib
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
TORCHVISION = (
    ROOT / ".cache" / "torchvision"
)  # apart, since transformers behaves differently beside it
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


@dataclasses.dataclass(frozen=True)
class Suite:
    """One kind of test: its marker, the extra of setup.cfg that it needs, and whether two
    workers share it.
    """

    name: str
    marker: str
    extra: str = ""
    workers: int = 2


SUITES = (
    Suite("default", ""),
    Suite("slow", "slow and not parity and not tpu_compiler"),
    Suite("notebooks", "notebooks", extra="notebook", workers=1),
    Suite("browser", "browser", extra="browser", workers=1),
    Suite("parity", "parity", extra="parity", workers=1),
    Suite("tpu_compiler", "tpu_compiler", extra="tpu", workers=1),
)


@dataclasses.dataclass
class Row:
    """A line of the table. `note` says why a suite did not run, or names failed tests."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def bad(self) -> bool:
        return self.failed > 0 or (not self.note and self.passed == 0)


def install(suite: Suite) -> str:
    """Installs the packages that a suite needs. Returns "", or the reason why it cannot."""
    commands = []
    if suite.extra:
        commands.append([*PIP, "--editable", f".[test,{suite.extra}]"])
    if suite.name == "parity" and not TORCHVISION.is_dir():
        commands.append([*PIP, "--no-deps", "--target", str(TORCHVISION), "torchvision==0.28.0"])
    for command in commands:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return f"not run: extra {suite.extra!r} cannot be installed ({reason[:80]})"
    return ""


def run(suite: Suite, arguments: list[str]) -> Row:
    """Runs one suite and reads its results from pytest's XML report."""
    if reason := install(suite):
        return Row(suite.name, note=reason)
    report = ROOT / ".cache" / f"tests-{suite.name}.xml"
    report.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments]
    if suite.marker:
        command += ["-m", suite.marker]
    if suite.workers > 1:
        command += [f"--numprocesses={suite.workers}", "--dist=loadfile", "--no-loadscope-reorder"]
    start = time.monotonic()
    subprocess.run(command, cwd=ROOT, env=os.environ | {"SEGJAX_TORCHVISION": str(TORCHVISION)})
    seconds = time.monotonic() - start
    if not report.is_file():
        return Row(suite.name, failed=1, seconds=seconds, note="pytest ended without a report")
    return read_report(suite.name, report, seconds)


def read_report(name: str, report: pathlib.Path, seconds: float) -> Row:
    """Counts the results in a JUnit XML file."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [
        case for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = ", ".join(f"{case.get('classname')}::{case.get('name')}" for case in bad[:3])
    return Row(name, len(cases) - len(bad) - skipped, len(bad), skipped, seconds, names)


def table(rows: list[Row]) -> str:
    """Formats the rows as aligned text."""
    lines = [f"{'suite':<14}{'passed':>8}{'failed':>8}{'skipped':>9}{'minutes':>9}  note"]
    for row in rows:
        numbers = f"{row.passed:>8}{row.failed:>8}{row.skipped:>9}{row.seconds / 60:>9.1f}"
        lines.append(f"{row.name:<14}{numbers}  {row.note}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [suite.name for suite in SUITES]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, help="suites to run (default: all)"
    )
    parser.add_argument(
        "--pytest", nargs=argparse.REMAINDER, default=[], help="the rest goes to pytest"
    )
    args = parser.parse_args()
    rows = [run(suite, args.pytest) for suite in SUITES if suite.name in args.only]
    print(f"\n{table(rows)}")
    return int(any(row.bad for row in rows))


if __name__ == "__main__":
    sys.exit(main())
