"""Fills the reference pages of the documentation site; mkdocs loads this file while it builds.

A line `<!-- run: segjax train --help -->` in a page is replaced by the output of that command. The
`Example:` sections of docstrings are rendered as Python code.
"""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import textwrap
from typing import Any

import griffe

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMAND = re.compile(r"^<!-- run: segjax (?P<arguments>.+) -->$", re.MULTILINE)
# The title, and all lines below it that are blank or indented.
EXAMPLE = re.compile(r"^Example:\n(?P<code>(?:[ \t]+.*\n?|\n)+)", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns the text of a page with the outputs of its commands filled in.

    Args:
      markdown: The page as written.

    Returns:
      The page with each command line replaced by a fenced block.

    Raises:
      SystemExit: A command failed. The message holds its error output.
    """
    return COMMAND.sub(lambda match: run_command(match["arguments"]), markdown)


def run_command(arguments: str) -> str:
    """Runs `segjax` with `arguments` and returns its output as a fenced block.

    Args:
      arguments: Command line after `segjax`, quoted as in a shell.

    Returns:
      Markdown.

    Raises:
      SystemExit: The command failed. The message holds its error output.
    """
    environment = os.environ | {"COLUMNS": "100", "JAX_PLATFORMS": "cpu", "NO_COLOR": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "segjax", *shlex.split(arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    if result.returncode:
        raise SystemExit(f"`segjax {arguments}` failed: {result.stderr}")
    # The site must not depend on who builds it.
    output = result.stdout.replace(str(pathlib.Path.home()), "~")
    return f"```text\n{output.rstrip()}\n```"


class ExampleSections(griffe.Extension):
    """Griffe extension that fences the code of `Example:` sections."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites the docstring of one module, class or function."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(fence_example, obj.docstring.value + "\n").rstrip()


def fence_example(match: re.Match[str]) -> str:
    """Returns an `Example:` section whose code is a fenced block.

    Args:
      match: Match of `EXAMPLE`.

    Returns:
      Text of the docstring, with the section's indentation.
    """
    code = textwrap.dedent(match["code"]).strip("\n")
    language = "pycon" if code.startswith(">>>") else "python"
    block = textwrap.indent(f"```{language}\n{code}\n```", "    ")
    return f"Example:\n{block}\n\n"
