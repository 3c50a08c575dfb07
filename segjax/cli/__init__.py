"""The `segjax` command. Every subcommand is a module, which is imported only when it runs.

You can skip these modules: the math is in `segjax.training.step` (train), `segjax.inference`
(predict, everything, detect, reconstruct) and `segjax.evaluation` (eval).
"""

import argparse
import importlib
import os
import select
import sys
import traceback
from collections.abc import Sequence

# Name of a command -> its module and its line of help.
COMMANDS = {
    "train": ("segjax.cli.train", "train an experiment, or resume it"),
    "config": ("segjax.cli.config", "print the settings of an experiment and what they mean"),
    "eval": ("segjax.cli.evaluate", "measure a checkpoint: IoU by number of clicks, COCO AP, ..."),
    "eval edges": ("segjax.cli.measure.edges", "BSDS benchmark of edge maps of any method"),
    "eval proposals": ("segjax.cli.measure.proposals", "average recall of mask proposals"),
    "eval boxes": ("segjax.cli.measure.boxes", "masks from a detector's boxes by a SAM, and AP"),
    "eval emergent": ("segjax.cli.measure.emergent", "masks that emerge from a network's features"),
    "eval panoptic": ("segjax.cli.measure.panoptic", "PQ of panoptic segmentations"),
    "predict": ("segjax.cli.inference.predict", "segment an image from points and boxes"),
    "everything": ("segjax.cli.inference.everything", "segment every object of images"),
    "segment": ("segjax.cli.inference.segment", "segment images by any prompt, with any model"),
    "serve": ("segjax.cli.serve", "open a page on which to annotate a folder of images"),
    "engine retrain": (
        "segjax.cli.engine.retrain",
        "train a SAM or a detector on committed objects",
    ),
    "engine prefill": ("segjax.cli.engine.prefill", "propose objects for people to correct"),
    "engine report": ("segjax.cli.engine.report", "clicks and seconds per object, by model"),
    "engine simulate": ("segjax.cli.engine.simulate", "run the data engine on ground truth"),
    "engine generate": ("segjax.cli.engine.generate", "masks for any number of images, by shards"),
    "label-studio": (
        "segjax.cli.inference.label_studio",
        "segment for Label Studio, as its machine learning backend",
    ),
    "label": ("segjax.cli.inference.label", "name masks or boxes by a CLIP"),
    "classify": ("segjax.cli.inference.classify", "classify images by names with a CLIP"),
    "detect": ("segjax.cli.inference.detect", "detect the objects of images with a Mask R-CNN"),
    "reconstruct": ("segjax.cli.inference.reconstruct", "reconstruct masked images with a MAE"),
    "prepare": ("segjax.cli.prepare", "turn a raw data set into prepared data"),
    "show": ("segjax.cli.show", "draw prepared data with its annotations, to check them"),
    "convert": ("segjax.cli.convert", "convert weights: runs, .safetensors, .pth"),
    "export": ("segjax.cli.export", "write a detector or a SAM as a file that runs without segjax"),
    "models": ("segjax.cli.models", "list models and published weights"),
}

EXAMPLES = """examples:
  segjax train --config=experiments/sam/quickstart.py --workdir=runs/quickstart
  segjax predict photo.jpg --checkpoint runs/quickstart --point 320,200 --out out
  segjax everything photo.jpg --checkpoint runs/quickstart --out out
  segjax detect photo.jpg --checkpoint runs/mask_rcnn --out out
  segjax eval --checkpoint runs/quickstart --out runs/quickstart
  segjax prepare coco ~/coco --out data/coco
  segjax show data/coco --out look
  segjax convert sam_vit_b_01ec64.pth sam_vit_b.safetensors

`segjax COMMAND --help` explains a command. Compiled programs are cached in ~/.cache/segjax/jax, so
that a second run starts sooner. JAX_COMPILATION_CACHE_DIR sets another folder; "" turns the cache
off."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formatter of help that keeps the lines of descriptions and has room for long options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: Arguments without the program's name. None: those of the process.

    Returns:
      Exit status: 0, 2 for errors that the user can fix, 130 after Ctrl-C, and 141 if the reader of
      the output has gone, as `head` does (the status of a program that SIGPIPE ends).
    """
    try:
        try:
            args, rest = _parse_arguments(list(sys.argv[1:] if argv is None else argv))
            try:
                return args.run(args, rest) or 0
            except (KeyboardInterrupt, ValueError, OSError, FloatingPointError) as error:
                return _report_error(error, args)
        finally:
            sys.stdout.flush()  # an error of writing is caught here, not while the interpreter ends
    except BrokenPipeError:
        # The interpreter flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parse_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses the arguments. Returns them and, for commands that read flags themselves, the rest."""
    # "eval edges" is a command of its own
    if " ".join(argv[:2]) in COMMANDS:
        argv = [" ".join(argv[:2]), *argv[2:]]
    args, rest = _make_parser(argv).parse_known_args(argv)
    args.argv = argv
    if rest and not args.passes_flags:
        args.subparser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args, rest


def _report_error(error: BaseException, args: argparse.Namespace) -> int:
    """Prints an error and returns the exit status. Raises it again if the output has no reader."""
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError) and _reader_has_gone():
        raise error
    debug = args.debug or bool(os.environ.get("SEGJAX_DEBUG"))
    if debug:
        traceback.print_exception(error)
    print(f"segjax {args.command}: {_describe_error(error)}", file=sys.stderr)
    if not debug:
        print("(--debug shows where)", file=sys.stderr)
    return 2


def _make_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Builds the parser. Only the command that `argv` names is imported and has its arguments."""
    parser = argparse.ArgumentParser(
        prog="segjax",
        description="Train and use models of image segmentation.",
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=_version() if "--version" in argv else ""
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module_name, summary) in COMMANDS.items():
        # Other commands are listed, not imported: help must not wait for jax.
        module = importlib.import_module(module_name) if name in argv else None
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__ if module else summary,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        command.add_argument(
            "--debug",
            action="store_true",
            help="show the traceback of an error (or set SEGJAX_DEBUG=1)",
        )
        command.set_defaults(passes_flags=False, subparser=command)
        if module:
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def keep_compiled_programs() -> None:
    """Sets jax's compilation cache to a folder in ~/.cache/segjax/jax, unless the user has set one.

    XLA compiles programs for CPUs for the number of cores, which jax's cache does not consider: a
    program for one core would be slow on two. So every number of usable cores has its own folder.
    """
    import jax

    from segjax.data.threads import count_usable_cores
    from segjax.files import get_cache_folder

    if (
        "JAX_COMPILATION_CACHE_DIR" not in os.environ
        and jax.config.jax_compilation_cache_dir is None
    ):
        jax.config.update(
            "jax_compilation_cache_dir",
            str(get_cache_folder() / "jax" / f"{count_usable_cores()}-cores"),
        )


def parse_step(text: str) -> int | str:
    """Parses the value of --step: a number of steps, or "best"."""
    if text != "best" and not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected the number of steps of a checkpoint, or 'best'"
        )
    return text if text == "best" else int(text)


def _reader_has_gone() -> bool:
    """Tells whether standard output is the broken pipe, and not another pipe of this process."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _describe_error(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__


def _version() -> str:
    import segjax

    return f"segjax {segjax.__version__}"
