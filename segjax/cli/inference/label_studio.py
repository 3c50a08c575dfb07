"""Serve a SAM to Label Studio, as its machine learning backend.

  segjax label-studio --url http://localhost:8080
  segjax label-studio --url http://localhost:8080 --checkpoint sam_vit_b --port 9090
  segjax label-studio --host 0.0.0.0 --image-host images.example.com --image-folder photos/

Give Label Studio the printed address under Settings > Model. A click or a rectangle of the smart
tools becomes a mask. Without one, everything in an image is pre-annotated. The access token of
Label Studio is read from the variable LABEL_STUDIO_API_KEY, to read uploaded images.

Images come from Label Studio, from the hosts and the folder that are named, or from the task
itself. The server answers this machine alone. With --host other machines reach it too, Label
Studio in a container among them; give Label Studio the printed user and password.

Files:
  QUEUE/PROJECT-TASK-ANNOTATION.json   masks of an annotation that was created or changed, by the
                                       webhook
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from segjax.cli.inference.image_arguments import add_model_arguments, load_model
from segjax.cli.serve import (
    add_address_arguments,
    listen,
    make_address,
    make_token,
    warm_up_photograph,
)

KEY_VARIABLE = "LABEL_STUDIO_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    add_model_arguments(parser, "sam_vit_b")
    parser.add_argument(
        "--url", default="", metavar="URL", help="address of Label Studio, to read its images"
    )
    parser.add_argument(
        "--image-host",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="host of images that tasks may name; may be repeated",
    )
    parser.add_argument(
        "--image-folder", metavar="DIR", help="root of Label Studio's local files, to read here"
    )
    parser.add_argument(
        "--queue",
        default="label_studio",
        metavar="DIR",
        help="folder for requests to retrain (default: label_studio)",
    )
    add_address_arguments(parser)


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Loads the model, compiles its prompts, prints the address and serves until Ctrl-C.

    Raises:
      ValueError: a model of another family, an address or host that is none, or a missing extra.
      OSError: a folder that cannot be used, or a port that is taken.
    """
    try:
        import uvicorn

        from segjax.web.label_studio.app import make_label_studio_app
    except ImportError as error:
        raise ValueError(
            f"the server needs the extra 'web' ({error.name} is missing): pip install 'segjax[web]'"
        ) from None
    from segjax.web.label_studio.backend import LabelStudioBackend
    from segjax.web.label_studio.task_images import TaskImages

    images = TaskImages(
        args.url, os.environ.get(KEY_VARIABLE, ""), args.image_host, args.image_folder
    )
    # The port is taken before the model loads, so that a taken one is told at once
    listener = listen(args.host, args.port)
    backend = LabelStudioBackend(_load_page_model(args), images, args.queue)
    token = make_token(args.host)
    if token:
        print(f"user: segjax, password: {token} (basic authentication)")
    print(f"ready: {make_address(args.host, listener)}", flush=True)
    config = uvicorn.Config(make_label_studio_app(backend, token), log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _load_page_model(args: argparse.Namespace) -> Any:
    """Returns the `PageModel` of the arguments, with its prompts compiled."""
    from segjax.inference.sam.predictor import SamPredictor
    from segjax.inference.saved_options import read_saved_percentiles, read_saved_thresholds
    from segjax.web.segmenter import PageModel

    model, variables, config = load_model(args)
    predictor = SamPredictor(model, variables, percentiles=read_saved_percentiles(config))
    page = PageModel(predictor, thresholds=read_saved_thresholds(config))
    warm_up_photograph(page)
    return page
