"""Verdicts: what a reader made of a damaged input, and when an error is one clear sentence."""

import dataclasses
import json
from collections.abc import Sequence

OK, REFUSED = "read", "refused"
# Everything else is a finding.
FINDINGS = ("crash", "hang", "memory", "process", "network", "write", "code", "silent", "unclear")

LONGEST_MESSAGE = 1_500  # characters
MOST_LINES = 60  # that may be printed while one input is read
# Errors for users, besides those that segjax defines. The command line prints them as one sentence.
_PLAIN = (
    *(ValueError, OSError, FileNotFoundError, FileExistsError, NotADirectoryError),
    *(IsADirectoryError, PermissionError, ConnectionError, TimeoutError),
)


class WrongValueError(Exception):
    """Error of a check: an input was read as something that it does not say."""


@dataclasses.dataclass
class Verdict:
    """Result of one case.

    Attributes:
      case: Number of the case.
      kind: OK, REFUSED or one of FINDINGS.
      detail: The error, or what was seen.
      seconds: Wall-clock time.
      memory: Resident memory that was added at the peak, in bytes.
    """

    case: int
    kind: str
    detail: str = ""
    seconds: float = 0.0
    memory: int = 0

    @property
    def is_finding(self) -> bool:
        """Tells whether something is to be fixed."""
        return self.kind in FINDINGS

    def to_line(self) -> bytes:
        """Returns the verdict as a line of JSON."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    @staticmethod
    def from_line(line: bytes) -> "Verdict":
        """Reads a line of `to_line`."""
        return Verdict(**json.loads(line))


def judge_error(error: BaseException, names: Sequence[str]) -> tuple[str, str]:
    """Returns kind and detail of an error.

    An error is clear if its type is one of segjax's or a plain ValueError or OSError, and its text
    is one printable line that names the input.

    Args:
      error: The error.
      names: Names of files and arguments, of which the text must contain one.
    """
    text = f"{type(error).__module__}.{type(error).__name__}: {error}"[:2_000]
    if any(isinstance(each, MemoryError) for each in _walk_causes(error)):
        return "memory", text
    if isinstance(error, WrongValueError):
        return "silent", str(error)
    return (
        ("unclear", f"{fault}: {text}") if (fault := _find_fault(error, names)) else (REFUSED, text)
    )


def _find_fault(error: BaseException, names: Sequence[str]) -> str:
    """Returns why an error is not one clear sentence, or ""."""
    message = str(error)
    if not type(error).__module__.startswith("segjax") and type(error) not in _PLAIN:
        return f"{type(error).__name__} is not an error for users"
    if len(message) > LONGEST_MESSAGE:
        return f"{len(message)} characters"
    if not message.isprintable():
        return "several lines or control characters"
    if not any(name in message for name in names):
        return f"names none of {', '.join(names)[:200]}"
    return ""


def _walk_causes(error: BaseException | None, depth: int = 0):
    if error is not None and depth < 20:
        yield error
        yield from _walk_causes(error.__cause__, depth + 1)
        yield from _walk_causes(error.__context__, depth + 1)
