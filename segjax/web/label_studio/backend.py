"""Answers to Label Studio: masks of prompts, pre-annotations, and requests to retrain."""

import collections
import hashlib
import pathlib
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from segjax.engine.images import check_pixels
from segjax.files import check_writable, write_json
from segjax.images.decoding import decode_image
from segjax.masks import encode_mask
from segjax.web.label_studio.brush import decode_brush
from segjax.web.label_studio.prompts import (
    LabelingConfig,
    find_context,
    make_region,
    parse_config,
    parse_context,
)
from segjax.web.label_studio.task_images import TaskImages
from segjax.web.segmenter import PageModel

_PIXELS = 4  # decoded images in memory
_PROJECTS = 100  # labeling configs in memory
_COMMITTED = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED")


class LabelStudioBackend:
    """Machine learning backend of Label Studio. Methods may be called from several threads.

    Args:
      model: the SAM.
      images: reader of the tasks' images.
      queue: folder that receives requests to retrain. It is made when the first one comes.

    Raises:
      OSError: the queue cannot be written.
    """

    def __init__(self, model: PageModel, images: TaskImages, queue: str | pathlib.Path) -> None:
        check_writable(queue)
        self.model, self.images, self.queue = model, images, pathlib.Path(queue)
        self._pixels: collections.OrderedDict[str, np.ndarray] = collections.OrderedDict()
        self._configs: collections.OrderedDict[str, LabelingConfig] = collections.OrderedDict()
        self._lock = threading.Lock()

    def set_up(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Remembers the labeling config of a project.

        Args:
          body: "project" and "schema" of the request.

        Raises:
          ValueError: a config without brush labels.
        """
        if body.get("schema"):
            self._keep(self._configs, _name_project(body), parse_config(body["schema"]), _PROJECTS)
        return {"model_version": self.model.hash}

    def predict(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Segments the object of a prompt, or without one everything in each task's image.

        Everything gets the first brush label, because a SAM knows no classes.

        Args:
          body: "tasks", "label_config" or a "project" that was set up, and "params".

        Raises:
          ValueError: a malformed request, or an image that is not allowed or cannot be decoded.
          OSError: an image that cannot be read.
        """
        config = self._find_config(body)
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
            raise ValueError("tasks are missing; expected a list of objects")
        regions = find_context(body.get("params"))
        if regions and len(tasks) != 1:
            raise ValueError(f"a context belongs to one task; the request has {len(tasks)}")
        return {"results": [self._predict_task(task, config, regions) for task in tasks]}

    def queue_retraining(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a request to retrain when an annotation was created or changed.

        There is one file per annotation, so that repeated changes do not fill the folder. It has
        the masks of the annotation in COCO's format. Other events are ignored.

        Args:
          body: "action", "annotation", "task" and "project" of the webhook.

        Returns:
          "status", and the name of the file that was written.

        Raises:
          ValueError: an annotation without ids, or with damaged masks.
          OSError: the file cannot be written.
        """
        action = body.get("action")
        if action not in _COMMITTED:
            return {"status": f"ignored: {str(action)[:80]}"}
        found = body.get("annotations") or [body.get("annotation")]
        files = []
        for annotation in found if isinstance(found, list) else [found]:
            if not isinstance(annotation, Mapping):
                raise ValueError("the annotation is missing; switch on the webhook's payload")
            task, task_id = _find_task(body, annotation)
            numbers = (_name_project(body), task_id, annotation.get("id"))
            if not all(str(number).isdecimal() for number in numbers):
                raise ValueError(
                    f"project, task and annotation are {numbers}; expected ids: switch on the "
                    "webhook's payload"
                )
            # The ids are numbers, so the name stays in the folder
            name = "-".join(map(str, numbers)) + ".json"
            content = {
                "action": action,
                "annotation": annotation["id"],
                "data": task.get("data"),
                "model": self.model.hash,
                "objects": _read_objects(annotation.get("result")),
                "project": int(numbers[0]),
                "requested": datetime.now(UTC).isoformat(timespec="seconds"),
                "task": task_id,
            }
            write_json(self.queue / name, content, indent=0)
            files.append(name)
        return {"status": "queued", "files": files}

    def _find_config(self, body: Mapping[str, Any]) -> LabelingConfig:
        with self._lock:
            known = self._configs.get(_name_project(body))
        return (
            known
            if known and not body.get("label_config")
            else parse_config(body.get("label_config"))
        )

    def _predict_task(
        self, task: Mapping[str, Any], config: LabelingConfig, regions: Any
    ) -> dict[str, Any]:
        data = task.get("data")
        if not isinstance(data, Mapping) or config.field not in data:
            raise ValueError(
                f"task {task.get('id')} has no data of the name {config.field!r}, which the "
                "labeling config shows as its image"
            )
        key, image = self._read_image(data[config.field], f"image of task {task.get('id')}")
        # Mask, label and score of the prompt's object, or of every object
        found: list[tuple[np.ndarray, str, float]] = []
        prompt = parse_context(regions, *image.shape[:2])
        if prompt is not None:
            label = config.find_label(prompt.label)
            result = self.model.decode(key, lambda: image, (prompt.step,))
            found = [(result.masks[result.best], label, float(result.scores[result.best]))]
        elif not regions:
            records = self.model.find_everything(image, lambda done, total: None)
            label = config.labels[0]
            found = [(one["segmentation"], label, float(one["predicted_iou"])) for one in records]
        # Regions. Their ids differ between images, so that none replaces another
        rows = [
            make_region(config, f"{key[:8]}-{index}", mask, label, score)
            for index, (mask, label, score) in enumerate(found)
            if mask.any()
        ]
        score = float(np.mean([row["score"] for row in rows])) if rows else 0.0
        return {"result": rows, "score": score, "model_version": self.model.hash}

    def _read_image(self, address: Any, name: str) -> tuple[str, np.ndarray]:
        """Returns the hash of an image's bytes, and the image as a browser shows it."""
        data = self.images.read(address)
        key = hashlib.sha256(data).hexdigest()[:32]
        with self._lock:
            image = self._pixels.get(key)
        if image is None:
            check_pixels(data, name)
            image = decode_image(data, name=name, upright=True, notes=[])
            self._keep(self._pixels, key, image, _PIXELS)
        return key, image

    def _keep(self, cache: collections.OrderedDict, key: str, value: Any, most: int) -> None:
        """Puts a value into a cache of the most recent ones."""
        with self._lock:
            cache[key] = value
            cache.move_to_end(key)
            while len(cache) > most:
                cache.popitem(last=False)


def _name_project(body: Mapping[str, Any]) -> str:
    """Returns the id of a request's project. Label Studio appends a time to some."""
    project = body.get("project")
    if isinstance(project, Mapping):
        project = project.get("id")
    return str(project).partition(".")[0]


def _find_task(
    body: Mapping[str, Any], annotation: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Any]:
    """Returns the task of an annotation, and its id."""
    task = body.get("task")
    if isinstance(task, Mapping):
        return task, task.get("id")
    return {}, annotation.get("task")


def _read_objects(regions: Any) -> list[dict[str, Any]]:
    """Returns the brush masks of an annotation: label and COCO's run lengths.

    Raises:
      ValueError: a malformed region, or one of another size than it states.
    """
    objects = []
    for region in regions if isinstance(regions, list) else []:
        if not isinstance(region, Mapping) or region.get("type") != "brushlabels":
            continue
        value, size = (
            region.get("value"),
            (region.get("original_height"), region.get("original_width")),
        )
        if not isinstance(value, Mapping) or not all(type(x) is int and x > 0 for x in size):
            raise ValueError("a brush region has no value or no original size")
        mask = decode_brush(value.get("rle"), *size)
        names = value.get("brushlabels") or [""]
        segmentation = {"size": list(size), "counts": encode_mask(mask)}
        objects.append({"label": str(names[0]), "segmentation": segmentation})
    return objects
