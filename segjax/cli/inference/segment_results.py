"""Files that `segjax segment` writes."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.files import write_atomic, write_json


def write_segments(
    out: pathlib.Path, name: str, file: str, image: np.ndarray, segments: Any, number: int
) -> str:
    """Writes the masks of an image and their overlay.

    Args:
      out: folder.
      name: name of the image for the files.
      file: file of the image.
      image: uint8 [H, W, 3].
      segments: `Segments`.
      number: index of the image.

    Returns:
      A line about the files.
    """
    from segjax.images.encoding import encode_png
    from segjax.masks import compute_mask_box, encode_mask

    rows = []
    for index, (mask, named) in enumerate(zip(segments.masks, segments.mask_names, strict=True)):
        left, top, right, bottom = (float(x) for x in compute_mask_box(mask))
        row: dict[str, Any] = {"id": index + 1, "score": float(segments.scores[index])}
        if named is not None:
            row |= {"category_id": int(segments.labels[index]) + 1, "category_name": named}
        if segments.things is not None:
            row["isthing"] = int(segments.things[index])
        row |= {"area": int(mask.sum()), "bbox": [left, top, right - left, bottom - top]}
        rows.append(row | {"segmentation": {"size": list(mask.shape), "counts": encode_mask(mask)}})
    height, width = image.shape[:2]
    about = {"image_id": number, "file_name": pathlib.Path(file).name}
    content = {"image": about | {"height": height, "width": width}, "kind": segments.kind}
    write_atomic(out / f"{name}_segments.png", encode_png(_draw(image, segments)))
    path = out / f"{name}_segments.json"
    write_json(path, content | {"annotations": rows})
    return f"{path}  {_describe(segments)}"


def _draw(image: np.ndarray, segments: Any) -> np.ndarray:
    """Draws the masks, with their names if they have some."""
    from segjax import viz

    if not len(segments):
        return image
    if (segments.labels < 0).any():
        return viz.draw_masks(image, segments.masks)
    return viz.draw_named_masks(
        image, segments.masks, segments.labels.tolist(), segments.names, segments.scores.tolist()
    )


def _describe(segments: Any) -> str:
    """Returns a phrase such as "3 semantic masks: cup, spoon, table"."""
    if not len(segments):
        return f"no {segments.kind} mask"
    counts: dict[str, int] = {}
    for name in segments.mask_names:
        if name:
            counts[name] = counts.get(name, 0) + 1
    names = ", ".join(f"{n} {name}" if n > 1 else name for name, n in counts.items())
    masks = f"{len(segments)} {segments.kind} mask{'s' * (len(segments) != 1)}"
    return f"{masks}: {names}" if names else masks


class PanopticFile:
    """Panoptic segmentations of images in COCO's format, collected image by image.

    Args:
      out: folder of panoptic.json and panoptic/.
      names: class names.
      things: number of names that are things, the first ones.
    """

    def __init__(self, out: pathlib.Path, names: Sequence[str], things: int) -> None:
        self._out = out
        self._categories = [
            {"id": number + 1, "name": name, "isthing": int(number < things)}
            for number, name in enumerate(names)
        ]
        self._rows: list[dict[str, Any]] = []

    def add(self, number: int, name: str, segments: Any) -> None:
        """Writes the PNG of an image.

        Args:
          number: id of the image.
          name: name of the PNG without suffix.
          segments: panoptic `Segments`, whose masks do not overlap.
        """
        from segjax.evaluation.panoptic import encode_ids
        from segjax.images.encoding import encode_png
        from segjax.masks import compute_mask_box

        ids = np.zeros(segments.masks.shape[1:], np.int64)
        infos = []
        for index, mask in enumerate(segments.masks):
            ids[mask] = index + 1
            left, top, right, bottom = (int(x) for x in compute_mask_box(mask))
            infos.append(
                {
                    "id": index + 1,
                    "category_id": int(segments.labels[index]) + 1,
                    "area": int(mask.sum()),
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )
        write_atomic(self._out / "panoptic" / f"{name}.png", encode_png(encode_ids(ids)))
        row = {"image_id": number, "file_name": f"{name}.png", "segments_info": infos}
        self._rows.append(row)

    def write(self) -> str:
        """Writes panoptic.json and returns a line about it."""
        path = self._out / "panoptic.json"
        write_json(path, {"annotations": self._rows, "categories": self._categories})
        return f"{path}  {len(self._rows)} images; segjax eval panoptic measures them"
