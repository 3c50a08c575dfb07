"""Annotations of COCO files by image, and boxes that look like corners."""

import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from segjax.data.sources.annotations.boxes import has_box, look_like_corners
from segjax.data.sources.annotations.segmentations import has_segmentation
from segjax.data.sources.annotations.values import describe, parse_key, parse_whole_number
from segjax.data.sources.raw import SkipCounts


def is_lone_box(annotation: Any) -> bool:
    """Returns True for an annotation that has a box and no segmentation."""
    return (
        isinstance(annotation, Mapping)
        and has_box(annotation)
        and not has_segmentation(annotation.get("segmentation"))
    )


def group_by_image(
    content: Mapping[str, Any], path: pathlib.Path, skipped: SkipCounts
) -> tuple[dict[str, Mapping], dict[str, list[Mapping]]]:
    """Maps the ids of images to the images, and to the annotations of each."""
    images: dict[str, Mapping] = {}
    for image in content["images"]:
        key = parse_key(image.get("id")) if isinstance(image, Mapping) else None
        if key is None:
            skipped.add_image("image entry has no usable id", f"{path.name}, {describe(image)}")
        elif key in images:
            skipped.add_image(
                "image id is taken by an earlier image",
                f"{path.name}, image {describe(image['id'])}",
            )
        else:
            images[key] = image
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        if not isinstance(annotation, Mapping):
            detail = f"{path.name}, {describe(annotation)}"
            skipped.add_object("annotation is not a JSON object", detail)
            continue
        key = parse_key(annotation.get("image_id"))
        if key in images:
            by_image[key].append(annotation)
        else:
            detail = f"{path.name}, annotation {describe(annotation.get('id'))} of image "
            detail += describe(annotation.get("image_id"))
            skipped.add_object("unknown image id in the annotations", detail)
    return images, by_image


def warn_about_corners(
    images: Mapping[str, Mapping], by_image: Mapping[str, Sequence[Mapping]], skipped: SkipCounts
) -> None:
    """Warns if boxes without masks, which nothing else can contradict, look like corners."""
    lone = []
    for key, annotations in by_image.items():
        size = [parse_whole_number(images[key].get(side)) for side in ("height", "width")]
        if None not in size:
            lone += [(each["bbox"], *size) for each in annotations if is_lone_box(each)]
    if look_like_corners(lone):
        skipped.add_warning(
            "boxes look like corners x1, y1, x2, y2 instead of x, y, width, height "
            "(--option corners=True reads them so)",
            f"{len(lone)} boxes, the first is {describe(lone[0][0])}",
        )
