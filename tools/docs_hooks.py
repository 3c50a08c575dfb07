"""Fills the reference pages of the documentation site; mkdocs calls these functions while it builds.

A line `<!-- run: segjax train --help -->` in a page is replaced by the output of that command.
"""

import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMAND = re.compile(r"^<!-- run: segjax (?P<arguments>.+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_) -> str:
    """Returns the text of a page with the outputs of its commands filled in.

    Args:
      markdown: the page as written.

    Returns:
      The page with each command line replaced by a fenced block.

    Raises:
      SystemExit: A command failed. The message holds its error output.
    """
    return COMMAND.sub(lambda match: run_command(match["arguments"]), markdown)


def run_command(arguments: str) -> str:
    """Runs `segjax` with `arguments` and returns its output as a fenced block.

    Args:
      arguments: command line after `segjax`, quoted as in a shell.

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
    # The home folder of whoever builds the site is nobody's business.
    output = result.stdout.replace(str(pathlib.Path.home()), "~")
    return f"```text\n{output.rstrip()}\n```"
