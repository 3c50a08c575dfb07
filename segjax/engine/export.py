"""Committed objects in other formats: COCO, SA-1B, and cut-outs with alpha."""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

from segjax.engine.annotations import select_current

UNNAMED = "object"


def make_coco(files: Iterable[tuple[str, tuple[int, int], Mapping[str, Any]]]) -> dict[str, Any]:
    """Returns the committed objects in COCO's format.

    Args:
      files: name, (height, width) and stored content of each image. Images without an object are
        listed only if they are done: they hold nothing.
    """
    images, annotations, categories = [], [], {}
    for name, (height, width), content in files:
        rows = select_current(content)
        if not rows and not content["done"]:
            continue
        number = len(images) + 1
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for row in rows:
            label = row.get("class") or UNNAMED
            category = categories.setdefault(label, len(categories) + 1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "iscrowd": 0,
                    **{key: row[key] for key in ("segmentation", "bbox", "area")},
                }
            )
    named = [{"id": number, "name": name} for name, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": named}


def make_sa1b(files: Iterable[tuple[str, tuple[int, int], Mapping[str, Any]]]) -> bytes:
    """Returns a ZIP archive with one JSON file per image, in SA-1B's format.

    Args:
      files: as for `make_coco`.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (name, (height, width), content) in enumerate(files, 1):
            rows = select_current(content)
            if not rows and not content["done"]:
                continue
            about = {"image_id": number, "file_name": name, "height": height, "width": width}
            annotations = [
                {
                    "id": index,
                    **{key: row[key] for key in ("segmentation", "bbox", "area")},
                    "predicted_iou": row.get("predicted_iou"),
                    "stability_score": None,
                    "crop_box": [0, 0, width, height],
                    "point_coords": [
                        point[:2] for step in row.get("steps", [])[-1:] for point in step["points"]
                    ],
                }
                for index, row in enumerate(rows, 1)
            ]
            text = json.dumps({"image": about, "annotations": annotations})
            archive.writestr(f"{name.rsplit('.', 1)[0]}.json", text)
    return buffer.getvalue()
