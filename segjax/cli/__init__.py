"""The `segjax` command: one subcommand a module, each imported when it is the one asked for."""

import argparse
import importlib
import os
import select
import sys
import traceback
from collections.abc import Sequence

COMMANDS = {
    "train": ("segjax.cli.train", "train the experiment of a config file; resumes by itself"),
    "eval": (
        "segjax.cli.evaluate",
        "measure a checkpoint: IoU by number of clicks, COCO's AP, ...",
    ),
    "predict": ("segjax.cli.predict", "segment a picture from points and boxes"),
    "everything": ("segjax.cli.everything", "segment every object of pictures"),
    "detect": ("segjax.cli.detect", "find the objects of pictures with a Mask R-CNN"),
    "reconstruct": (
        "segjax.cli.reconstruct",
        "show what a masked autoencoder makes of a masked picture",
    ),
    "prepare": ("segjax.cli.prepare", "turn raw data sets into prepared data"),
    "convert": ("segjax.cli.convert", "turn weights into another format: runs, .safetensors, .pth"),
    "export": ("segjax.cli.export", "write a detector as one file that runs without segjax"),
    "models": ("segjax.cli.models", "list the models and the published weights"),
}

EXAMPLES = """examples:
  segjax train --config=experiments/sam/quickstart.py --workdir=runs/quickstart
  segjax predict photo.jpg --checkpoint runs/quickstart --point 320,200 --out out
  segjax everything photo.jpg --checkpoint runs/quickstart --out out
  segjax detect photo.jpg --checkpoint runs/mask_rcnn --out out
  segjax eval --checkpoint runs/quickstart --out runs/quickstart
  segjax prepare coco ~/coco --out data/coco
  segjax convert sam_vit_b_01ec64.pth sam_vit_b.safetensors

`segjax COMMAND --help` says more. Compiled programs are kept in ~/.cache/segjax/jax, so that a second run starts
sooner; JAX_COMPILATION_CACHE_DIR names another folder, and "" keeps none."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 0, or 2 for what the user can mend; 141 where whoever read
    the output has gone, as `head` does, which is the status of programs that the signal ends."""
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # what could not be written is an error here, not while the interpreter ends
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(argv: list[str]) -> int:
    parser = _parser(argv)
    args, rest = parser.parse_known_args(argv)
    args.argv = argv
    if rest and not args.passes_flags:
        args.subparser.error(f"unrecognized arguments: {' '.join(rest)}")
    debug = args.debug or bool(os.environ.get("SEGJAX_DEBUG"))
    try:
        return args.run(args, rest) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            raise
        if debug:
            traceback.print_exc()
        print(f"segjax {args.command}: {_said(error)}", file=sys.stderr)
        if not debug:
            print("(--debug shows where)", file=sys.stderr)
        return 2


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Arguments of every command that `argv` names; the others get their one line of help."""
    parser = argparse.ArgumentParser(
        prog="segjax",
        description="Train and use segmenters of images.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=_version() if "--version" in argv else ""
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module_name, summary) in COMMANDS.items():
        module = importlib.import_module(module_name) if name in argv else None
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__ if module else summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_argument(
            "--debug",
            action="store_true",
            help="show the traceback of an error (or SEGJAX_DEBUG=1)",
        )
        command.set_defaults(passes_flags=False, subparser=command)
        if module:
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def keep_compiled_programs() -> None:
    """Points jax's compilation cache at a folder of ~/.cache/segjax/jax, unless the user has chosen.

    A program for CPUs is cut into as many pieces as there are cores when it is compiled, which jax's cache passes over:
    one core's would be slow on two. So each number of cores that we may use has a folder.
    """
    import jax

    from segjax.data.threads import count_usable_cores
    from segjax.files import cache_folder

    if (
        "JAX_COMPILATION_CACHE_DIR" not in os.environ
        and jax.config.jax_compilation_cache_dir is None
    ):
        jax.config.update(
            "jax_compilation_cache_dir", str(cache_folder() / "jax" / f"{count_usable_cores()}-cores")
        )


def checkpoint_step(text: str) -> int | str:
    """What --step names: a number, or "best"."""
    if text != "best" and not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected the number of steps of a checkpoint, or 'best'"
        )
    return text if text == "best" else int(text)


def _reader_has_gone() -> bool:
    """Whether it is the output that broke, and not some other pipe of ours."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__


def _version() -> str:
    import segjax

    return f"segjax {segjax.__version__}"
