"""Writes what `segjax predict` finds: masks, overlays, reports, and results in COCO's format."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.files import write_atomic, write_json


def write_masks(
    out: pathlib.Path,
    name: str,
    image: np.ndarray,
    prompts: Sequence[dict[str, Any]],
    results: Sequence[tuple[np.ndarray, np.ndarray]],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes masks, overlay and, last, NAME_prediction.json, each atomically.

    Masks of an earlier call for an image of this name are removed first.

    Args:
      out: folder.
      name: name of the image, with which all files begin.
      image: uint8 [H, W, 3].
      prompts: one dict per object, see `segjax.viz.draw_predictions`.
      results: masks bool [M, H, W] and predicted IoUs [M] of each object. M is 3 with --multimask,
        else 1.
      about: further fields of the report.

    Returns:
      The content of NAME_prediction.json.
    """
    from segjax.images.encoding import encode_png

    remove_masks(out, name)
    objects = []
    for number, (prompt, (masks, ious)) in enumerate(zip(prompts, results, strict=True)):
        entries = []
        for index, (mask, iou) in enumerate(zip(masks, ious, strict=True)):
            suffix = f"{number}" if len(masks) == 1 else f"{number}_{index}"
            file = f"{name}_mask_{suffix}.png"
            write_atomic(out / file, encode_png(mask.astype(np.uint8) * 255))
            entries.append({"file": file, **describe_mask(mask, iou)})
        names = ("points", "labels", "box", "text")
        fields = {key: prompt[key] for key in names if key in prompt}
        objects.append(fields | {"masks": entries})
    write_overlays(out, name, image, prompts, results)
    height, width = image.shape[:2]
    report = {**about, "height": height, "width": width, "objects": objects}
    write_json(out / f"{name}_prediction.json", report, indent=1, sort_keys=False)
    return report


def remove_masks(out: pathlib.Path, name: str) -> None:
    """Removes the mask files of an earlier call, of which there may have been more."""
    pattern = re.compile(re.escape(name) + r"_(mask_\d+(_\d+)?|candidates)\.png")
    for file in out.iterdir() if out.is_dir() else ():
        if pattern.fullmatch(file.name):
            file.unlink()


def write_overlays(
    out: pathlib.Path,
    name: str,
    image: np.ndarray,
    prompts: Sequence[dict[str, Any]],
    results: Sequence[tuple[np.ndarray, np.ndarray]],
) -> None:
    """Writes NAME_overlay.png with the best masks, and a sheet if there are several candidates."""
    from segjax import viz
    from segjax.images.encoding import encode_png

    best = np.stack([masks[int(np.argmax(ious))] for masks, ious in results])
    overlay = viz.draw_predictions(image, best, prompts)
    write_atomic(out / f"{name}_overlay.png", encode_png(overlay))
    if max(len(masks) for masks, _ in results) > 1:
        sheet = viz.draw_candidate_sheet(image, *zip(*results, strict=True), prompts)
        write_atomic(out / f"{name}_candidates.png", encode_png(sheet))


def describe_mask(mask: np.ndarray, iou: float) -> dict[str, Any]:
    """Returns predicted IoU, area, box (None for an empty mask) and run lengths of a mask."""
    from segjax.masks import compute_mask_box, encode_mask

    return {
        "predicted_iou": round(float(iou), 6),
        "area": int(mask.sum()),
        "box": compute_mask_box(mask).tolist() if mask.any() else None,
        "rle": {"size": list(mask.shape), "counts": encode_mask(mask)},
    }


def make_coco_rows(
    image_id: Any,
    prompts: Sequence[dict[str, Any]],
    results: Sequence[tuple[np.ndarray, np.ndarray]],
) -> list[dict[str, Any]]:
    """Returns one row of COCO results for each object, from its best mask.

    Args:
      image_id: id of the image.
      prompts: of the objects, with "row", the fields of the prompt file that are kept. A score of
        the prompt file stays the score, else it is the predicted IoU.
      results: as for `write_masks`.
    """
    rows = []
    for prompt, (masks, ious) in zip(prompts, results, strict=True):
        best = int(np.argmax(ious))
        about = describe_mask(masks[best], ious[best])
        x1, y1, x2, y2 = about["box"] or (0.0, 0.0, 0.0, 0.0)
        row = {"category_id": 1, "score": about["predicted_iou"], **prompt["row"]}
        rows.append(
            {
                "image_id": image_id,
                **row,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": about["area"],
                "segmentation": about["rle"],
                "predicted_iou": about["predicted_iou"],
            }
        )
    return rows
