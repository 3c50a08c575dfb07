"""Open a page on which to segment, name and commit the objects of a folder of images.

  segjax serve photos/
  segjax serve photos/ --checkpoint sam_vit_b --classes "cup,spoon" --clip clip_vit_b_16
  segjax serve photos/ --host 0.0.0.0 --port 8000

Open the printed address in a browser. The server answers this machine alone. With --host other
machines reach it too; they need the token in the printed address.

Files:
  FOLDER/masks/NAME.json      objects of an image, with every edit, its prompts and its author
  FOLDER/.segjax/embeddings   image embeddings, which may be deleted at any time

The page exports COCO's and SA-1B's formats. `segjax prepare coco` reads the first.
"""

import argparse
import pathlib
import secrets
import socket
from collections.abc import Sequence
from typing import Any

from segjax.cli.inference.image_arguments import add_model_arguments, load_model
from segjax.cli.inference.label_arguments import add_clip_arguments, load_clip
from segjax.files import check_writable

LOCAL = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument(
        "folder",
        nargs="?",
        default="annotations",
        metavar="FOLDER",
        help="folder of images (default: annotations, made if missing)",
    )
    add_model_arguments(parser, "sam_vit_b")
    parser.add_argument("--classes", default="", metavar="A,B,...", help="names that are offered")
    add_clip_arguments(parser.add_argument_group("names and texts by CLIP"))
    add_address_arguments(parser)


def add_address_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --port and --host, for `listen`."""
    parser.add_argument(
        "--port", type=int, default=0, metavar="N", help="port (default: 0, a free one)"
    )
    parser.add_argument(
        "--host",
        default=LOCAL,
        metavar="ADDRESS",
        help="address to listen on; other than this machine's needs the printed token",
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Loads the models, compiles all prompts, prints the address and serves until Ctrl-C.

    You can skip this function: `segjax.web.app` has the addresses.

    Raises:
      ValueError: a model of another family, class names that occur twice, or a missing extra.
      OSError: a folder that cannot be written, or a port that is taken.
    """
    try:
        import uvicorn

        from segjax.web.app import make_app
    except ImportError as error:
        raise ValueError(
            f"the page needs the extra 'web' ({error.name} is missing): pip install 'segjax[web]'"
        ) from None
    from segjax.web.messages import MAX_BYTES

    folder = pathlib.Path(args.folder)
    check_writable(folder)
    # The port is taken before the models load, so that a taken one is told at once
    listener = listen(args.host, args.port)
    project = make_project(args, folder)
    token = make_token(args.host)
    address = f"{make_address(args.host, listener)}/"
    count = len(project.images.list_entries())
    images = f"{count} image{'s' * (count != 1)}"
    hint = "" if count else "; drop some onto the page"
    print(f"{folder}: {images}{hint}")
    if token:
        print("other machines reach this server; give the address to people you trust alone")
    print(f"ready: {address}{f'?token={token}' if token else ''}", flush=True)
    config = uvicorn.Config(
        make_app(project, token), log_level="warning", ws_max_size=MAX_BYTES, ws="websockets-sansio"
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def make_project(args: argparse.Namespace, folder: pathlib.Path) -> Any:
    """Returns the `Project` of a folder, with its models loaded and its prompts compiled."""
    from segjax.inference.sam.predictor import SamPredictor
    from segjax.inference.saved_options import read_saved_percentiles, read_saved_thresholds
    from segjax.text.templates import parse_names
    from segjax.web.project import Project
    from segjax.web.segmenter import PageModel, open_folder_cache

    classes = tuple(parse_names(args.classes)) if args.classes else ()
    clip = load_clip(args)[0] if args.clip else None
    model, variables, config = load_model(args)
    predictor = SamPredictor(
        model,
        variables,
        percentiles=read_saved_percentiles(config),
        clip=clip if model.text_width else None,
        cache=open_folder_cache(folder),
    )
    thresholds = read_saved_thresholds(config)
    page = PageModel(predictor, clip, thresholds, open_folder_cache(folder))
    project = Project(folder, page, classes)
    entries = project.images.list_entries()
    if entries:
        print("compiling", flush=True)
        page.warm_up(*project.get_source(entries[0]))
    else:
        warm_up_photograph(page)
    return project


def make_token(host: str) -> str:
    """Returns a new token, which other machines need. "" for a server of this machine alone."""
    return "" if host in (LOCAL, "localhost", "::1") else secrets.token_urlsafe(18)


def make_address(host: str, listener: socket.socket) -> str:
    """Returns the address of a server, without a path."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


def warm_up_photograph(page: Any) -> None:
    """Compiles the prompts of a `PageModel` for the size of the demonstration photograph."""
    from segjax.data.synthetic.photographs import load_demonstration_photograph
    from segjax.images.decoding import decode_image

    photograph = decode_image(load_demonstration_photograph())
    print("compiling", flush=True)
    page.warm_up("demo", lambda: photograph)


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens on an address.

    Raises:
      OSError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}; try --port 0") from None
    return listener
