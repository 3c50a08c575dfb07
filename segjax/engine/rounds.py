"""Rounds of a data engine: committed objects train the next model (SAM, section 4)."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from segjax.data.prepare import prepare
from segjax.engine.annotations import AnnotationStore, select_current
from segjax.engine.export import make_coco
from segjax.engine.images import ImageFolder
from segjax.files import read_json_object, write_json

FOLDER = "rounds"
_ALL = "train"
_HELD_OUT_FROM = 5  # images, of which a fifth is held out
GROWTH = 1.5  # a round is due when the objects grew by half

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Round:
    """A finished round.

    Attributes:
      number: from 1.
      run: folder of the training run.
      about: content of round.json: "objects", "images", "start", "kind" and so on.
    """

    number: int
    run: pathlib.Path
    about: Mapping[str, Any]


def list_rounds(folder: pathlib.Path, kind: str = "sam") -> list[Round]:
    """Returns the finished rounds of a folder, the first one first.

    Args:
      folder: folder of the images.
      kind: "sam" or "detector".
    """
    rounds = []
    for path in sorted((folder / FOLDER).glob(f"*/{kind}.json")):
        about = read_json_object(path, "remove the folder of this round")
        rounds.append(Round(int(path.parent.name), path.parent / kind, about))
    return rounds


def count_objects(folder: pathlib.Path) -> tuple[int, int]:
    """Returns the number of current objects, and of images that have some."""
    store, counts = AnnotationStore(folder), []
    for entry in ImageFolder(folder).list_entries():
        counts.append(len(select_current(store.read(entry.name))))
    return sum(counts), sum(count > 0 for count in counts)


def explain_wait(folder: pathlib.Path, kind: str = "sam") -> str:
    """Returns why no round is due, "" if one is.

    A round is due when there are objects, and half as many more as the last round of the kind saw.
    """
    objects, _ = count_objects(folder)
    rounds = list_rounds(folder, kind)
    if not objects:
        return f"no object is committed in {folder}; annotate some with segjax serve"
    if rounds:
        before = rounds[-1].about["objects"]
        if objects < GROWTH * before:
            return (
                f"{objects} objects, and {before} in the last round; the next one is due at "
                f"{int(-(-GROWTH * before // 1))} (--force starts it now)"
            )
    return ""


def start_round(
    folder: pathlib.Path,
    config: Any,
    *,
    kind: str = "sam",
    extra: Mapping[str, float] | None = None,
) -> Round:
    """Trains a model on the committed objects, from the model of the last round.

    A fifth of the images is held out for the run's own evaluation. Without enough images for that,
    all of them are in both splits, which is logged.

    Args:
      folder: folder of the images.
      config: experiment of the kind, complete but for its data. Its `init_from` starts the first
        round.
      kind: "sam" (promptable) or "detector", whose objects have one class.
      extra: prepared data -> weight, mixed with the committed objects, whose weight is 1.

    Returns:
      The finished round.

    Raises:
      ValueError: no committed object, or a config that does not train this data.
    """
    from segjax.tasks import complete_config, make_task
    from segjax.training.loop import train

    # The committed objects as prepared data
    number = max([0, *(row.number for row in list_rounds(folder, kind))]) + 1
    place = folder / FOLDER / f"{number:04d}"
    data = place / f"{kind}_data"
    objects, images = _export(folder, data, one_class=kind == "detector")
    # The model of the last round, or of the experiment
    rounds = list_rounds(folder, kind)
    start = str(config.get("init_from") or "scratch")
    config = config.copy_and_resolve_references()
    if rounds:
        start = str(rounds[-1].run)
        config.init_from = start if kind == "sam" else f"detector:{start}"
    config.data.source = str(data)
    if extra:
        with config.ignore_type():  # a mixture is a list where a source is text
            config.data.source = [(str(data), 1.0), *((str(k), float(w)) for k, w in extra.items())]
    splits = ("train", "val") if images >= _HELD_OUT_FROM else (_ALL, _ALL)
    config.data.train_split, config.data.eval_split = splits
    # Train, and record what the round saw
    config = complete_config(config)
    task = make_task(config)
    train(task, config, place / kind)
    about = {"objects": objects, "images": images, "start": start, "kind": kind}
    write_json(place / f"{kind}.json", about | {"steps": config.total_steps})
    return Round(number, place / kind, about)


def _export(folder: pathlib.Path, out: pathlib.Path, *, one_class: bool) -> tuple[int, int]:
    """Prepares the committed objects as "train" and "val", and returns objects and images.

    Raises:
      ValueError: there is none.
    """
    store, files = AnnotationStore(folder), []
    for entry in ImageFolder(folder).list_entries():
        content = store.read(entry.name)
        if rows := select_current(content):
            files.append((entry.name, tuple(rows[0]["segmentation"]["size"]), content))
    if not files:
        raise ValueError(f"no object is committed in {folder}; annotate some with segjax serve")
    content = make_coco(files)
    if one_class:
        content["categories"] = [{"id": 1, "name": "object"}]
        for row in content["annotations"]:
            row["category_id"] = 1
    path = folder / f"instances_{_ALL}.json"
    write_json(path, content, indent=0)
    try:
        # Masks refer to the upright images that the page shows
        options: dict[str, Any] = dict(overwrite=True, upright=True)
        if len(files) >= _HELD_OUT_FROM:
            options["held_out"] = 0.2
        prepare("coco", path, out, **options)
    finally:
        path.unlink()
    if len(files) < _HELD_OUT_FROM:
        logger.warning("%d images are too few to hold some out", len(files))
    return len(content["annotations"]), len(files)
