"""Numbers of a data engine by model: time and clicks per object, agreement of proposals."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.engine.annotations import AnnotationStore, select_current
from segjax.engine.images import ImageFolder
from segjax.engine.prefill import STAGE
from segjax.masks import compute_iou, decode_rle


def make_report(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Measures the committed objects of a folder, one row for each model that drew some.

    Returns:
      Rows in the order of the models' first commits:
        model: hash of the SAM.
        images: images with an object of it.
        objects: current objects that it drew.
        objects_per_image: mean.
        prefilled: share of them that nobody had to draw.
        seconds, clicks: mean per object that a person drew. Corrections are included.
        corrected: proposals that a person edited.
        iou_90, iou_75: share of the corrected proposals whose IoU with the correction is above
          0.9 and above 0.75 (SAM, section 5, reports 94 % and 97 %). None without any.
    """
    store, rows = AnnotationStore(folder), {}
    for entry in ImageFolder(folder).list_entries():
        content = store.read(entry.name)
        by_id = {row["id"]: row for row in content["objects"]}
        for row in select_current(content):
            sums = rows.setdefault(row["model"], _start(row["created"]))
            sums["created"] = min(sums["created"], row["created"])
            sums["images"].add(entry.name)
            sums["objects"] += 1
            sums["prefilled"] += row["stage"] == STAGE
            if row["stage"] != STAGE:
                sums["seconds"].append(row.get("seconds") or 0.0)
                sums["clicks"].append(count_clicks(row))
            # A proposal and its correction
            parent = by_id.get(row["parent"])
            if parent and parent["stage"] == STAGE and row["stage"] != STAGE:
                pair = (decode_rle(one["segmentation"]) for one in (parent, row))
                sums["ious"].append(compute_iou(*pair))
    ordered = sorted(rows.items(), key=lambda item: item[1]["created"])
    return [_summarize(model, sums) for model, sums in ordered]


def count_clicks(row: Mapping[str, Any]) -> int:
    """Returns the clicks and boxes of an object. A painted mask without steps counts as one."""
    steps = row.get("steps") or []
    if not steps:
        return 1
    return len(steps[-1]["points"]) + (steps[-1]["box"] is not None)


def _start(created: str) -> dict[str, Any]:
    sums: dict[str, Any] = {"created": created, "images": set(), "objects": 0, "prefilled": 0}
    return sums | {"seconds": [], "clicks": [], "ious": []}


def _summarize(model: str, sums: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row of a model."""
    mean = lambda values: float(np.mean(values)) if len(values) else None
    ious = np.array(sums["ious"])
    return {
        "model": model,
        "images": len(sums["images"]),
        "objects": sums["objects"],
        "objects_per_image": sums["objects"] / len(sums["images"]),
        "prefilled": sums["prefilled"] / sums["objects"],
        "seconds": mean(sums["seconds"]),
        "clicks": mean(sums["clicks"]),
        "corrected": len(ious),
        "iou_90": mean(ious > 0.9),
        "iou_75": mean(ious > 0.75),
    }


def format_report(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as a table for people."""
    names = (
        "images",
        "objects",
        "objects_per_image",
        "prefilled",
        "seconds",
        "clicks",
        "corrected",
    )
    names += ("iou_90", "iou_75")
    lines = [f"{'model':<18}" + "".join(f"{name.replace('objects_', ''):>11}" for name in names)]
    for row in rows:
        cells = ["-" if row[name] is None else f"{row[name]:.4g}" for name in names]
        lines.append(f"{row['model']:<18}" + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)
