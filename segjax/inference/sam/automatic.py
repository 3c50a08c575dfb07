"""SamAutomaticMaskGenerator: every object of a picture, from a grid of clicks (SAM, section 5 and appendix B).

Two steps: `propose` runs the network, `select` applies the thresholds, so that they can be tuned without running it
again. `generate` does both.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segjax.images.transforms import decode_image
from segjax.inference.sam.candidates import MaskCandidates, join_candidates, propose
from segjax.inference.sam.crops import Crop, make_crops, make_point_grid
from segjax.inference.sam.jitted import embed
from segjax.masks import (
    decode_mask,
    encode_mask,
    compute_mask_box,
    parse_run_lengths,
    decode_run_lengths,
    remove_small_regions,
)
from segjax.models.sam.sam import Sam
from segjax.ops.nms import nms

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
FLOORS = ("pred_iou_thresh", "stability_score_thresh")
_nms, _BLOCK = jax.jit(nms), 2048


class SamAutomaticMaskGenerator:
    """Segments everything. Arguments as in segment-anything, whose masks it finds; those after `output_mode` are ours.

    Args:
      model, variables: as `segjax.load` returns them.
      points_per_side: of the grid over the whole picture; None with `point_grids`.
      points_per_batch: clicks decoded in one call.
      pred_iou_thresh: a mask's predicted IoU must exceed it; 0 or less asks for nothing.
      stability_score_thresh: the IoU of a mask's versions with its threshold `stability_score_offset` (logits) higher
        and lower must reach it.
      box_nms_thresh: of two masks of a crop whose boxes overlap more than this, the one of lower predicted IoU goes.
      crop_n_layers: also look at 4 ** i crops for each layer i up to this. crop_nms_thresh: of overlapping masks of two
        crops that of the larger crop goes. crop_overlap_ratio: see `make_crops`. crop_n_points_downscale_factor: layer i
        has points_per_side / factor ** i points a side.
      point_grids: one for each layer, [N, 2], (x, y) in the unit square.
      min_mask_region_area: holes and islands of fewer pixels are removed; 0 leaves them.
      output_mode: of "segmentation": "binary_mask" (bool [H, W]), "uncompressed_rle" or "coco_rle". The latter two need
        little memory.
      max_mask_area: masks that cover this fraction of the picture or more are dropped (SAM, appendix B: .95; its code
        keeps them); None keeps all.
      percentiles: (low, high): stretch each picture's intensities as in training.
      views_per_batch: pictures or crops that are embedded in one call.
      progress: show a bar.

    Raises:
      ValueError: an unknown output mode; neither or both of points_per_side and point_grids, or too few grids.
    """

    def __init__(
        self,
        model: Sam,
        variables: Mapping[str, Any],
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
        *,
        max_mask_area: float | None = None,
        percentiles: tuple[float, float] | None = None,
        views_per_batch: int = 1,
        progress: bool = False,
    ) -> None:
        if (points_per_side is None) == (point_grids is None):
            raise ValueError(
                f"points_per_side is {points_per_side} and point_grids is {'' if point_grids is None else 'not '}None; "
                "give one of them (points_per_side=None with point_grids)"
            )
        for name, value, least in (
            ("points_per_side", 1 if points_per_side is None else points_per_side, 1),
            ("points_per_batch", points_per_batch, 1),
            ("crop_n_layers", crop_n_layers, 0),
            ("crop_n_points_downscale_factor", crop_n_points_downscale_factor, 1),
            ("views_per_batch", views_per_batch, 1),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; expected at least {least}")
        if point_grids is None:
            sides = [
                int(points_per_side / crop_n_points_downscale_factor**i)
                for i in range(crop_n_layers + 1)
            ]
            point_grids = [make_point_grid(max(side, 1)) for side in sides]
        if len(point_grids) <= crop_n_layers:
            raise ValueError(
                f"{len(point_grids)} point_grids for crop_n_layers={crop_n_layers}; expected one a layer, "
                f"{crop_n_layers + 1} with that of the whole picture"
            )
        self.point_grids = [np.asarray(grid, np.float64) for grid in point_grids]
        for grid in self.point_grids:
            if (
                grid.ndim != 2
                or grid.shape[1] != 2
                or grid.size == 0
                or grid.min() < 0
                or grid.max() > 1
            ):
                span = f", values {grid.min():g} to {grid.max():g}" if grid.size else ""
                raise ValueError(
                    f"a point grid is {grid.shape}{span}; expected [N, 2], (x, y) between 0 and 1"
                )
        if output_mode not in OUTPUT_MODES:
            raise ValueError(
                f"output_mode {output_mode!r} is unknown; choose one of {', '.join(OUTPUT_MODES)}"
            )
        self.model, self.variables = model, jax.device_put(dict(variables))
        self.points_per_batch = points_per_batch
        self.crop_n_layers, self.crop_overlap_ratio = crop_n_layers, crop_overlap_ratio
        self.stability_score_offset = stability_score_offset
        self.thresholds = dict(
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            box_nms_thresh=box_nms_thresh,
            crop_nms_thresh=crop_nms_thresh,
            min_mask_region_area=min_mask_region_area,
            max_mask_area=max_mask_area,
        )
        self.output_mode, self.percentiles = output_mode, percentiles
        self.views_per_batch, self.progress = views_per_batch, progress

    def generate(self, image: np.ndarray | Sequence[np.ndarray]) -> list:
        """The records of an image, or of each of several.

        Args:
          image: uint8 [H, W, 3], RGB (grey, RGBA and uint16 are taken too, as by `SamPredictor`), or a list of such.

        Returns:
          A list of dicts; empty where nothing is found. In the reference's order: of one crop by falling predicted IoU,
          with crops those of the smallest first, after clean-up the untouched first. Keys: segmentation (see
          `output_mode`), area (px), bbox (x, y, width, height; a mask of one pixel is 1 x 1), predicted_iou,
          point_coords [[x, y]], stability_score, crop_box (x, y, width, height).
        """
        if not isinstance(image, list | tuple) and np.ndim(image) <= 3:
            return self.select(self.propose(image))
        return [self.select(proposals) for proposals in self.propose_all(image)]

    def propose(self, image: np.ndarray, **floors: float) -> MaskCandidates:
        """Runs the network on one image: `MaskCandidates` above the floors, for `select`.

        Args:
          floors: `pred_iou_thresh` and `stability_score_thresh`, to be below the generator's own: `select` can then be
            asked for anything from there up.
        """
        return self.propose_all([image], **floors)[0]

    def propose_all(self, images: Sequence[np.ndarray], **floors: float) -> list[MaskCandidates]:
        """`propose` for several images; `views_per_batch` of them, or of their crops, are embedded in one call."""
        floors = self._completed(floors, FLOORS)
        proposals = []
        for start in range(0, len(images), self.views_per_batch):
            group = images[start : start + self.views_per_batch]
            pictures = [
                decode_image(
                    np.asarray(image), name=f"image {number}", percentiles=self.percentiles
                )
                for number, image in enumerate(group, start)
            ]
            proposals += self._propose_group(pictures, floors)
        return proposals

    def _propose_group(
        self, pictures: list[np.ndarray], floors: Mapping[str, float]
    ) -> list[MaskCandidates]:
        crops = [
            make_crops(picture.shape[:2], self.crop_n_layers, self.crop_overlap_ratio)
            for picture in pictures
        ]
        parts: list[list[dict[str, Any]]] = [[] for _ in pictures]
        views = [(which, number) for which, of in enumerate(crops) for number in range(len(of))]
        clicks = sum(len(self.point_grids[crops[which][number].layer]) for which, number in views)
        with progress_bar(clicks, self.progress) as advance:
            for start in range(0, len(views), self.views_per_batch):
                batch = views[start : start + self.views_per_batch]
                cuts = [crops[which][number].cut(pictures[which]) for which, number in batch]
                embeddings = embed(self.model, self.variables, cuts, per_batch=self.views_per_batch)
                for (which, number), embedding in zip(batch, embeddings, strict=True):
                    found = self._propose_view(
                        embedding, crops[which][number], pictures[which].shape[:2], floors, advance
                    )
                    parts[which] += [
                        part | {"crop": np.full(len(part["rle"]), number)} for part in found
                    ]
        found = zip(pictures, crops, parts, strict=True)
        return [
            join_candidates(picture.shape[:2], *rest, tuple(floors.values())) for picture, *rest in found
        ]

    def _propose_view(
        self,
        embedding: jax.Array,
        crop: Crop,
        hw: tuple[int, int],
        floors: Mapping[str, float],
        advance: Callable[[int], None],
    ) -> Iterator[dict[str, Any]]:
        return propose(
            self.model,
            self.variables,
            embedding,
            crop,
            self.point_grids[crop.layer],
            hw,
            points_per_batch=self.points_per_batch,
            iou_floor=_iou_floor(floors["pred_iou_thresh"]),
            stability_floor=floors["stability_score_thresh"],
            stability_offset=self.stability_score_offset,
            advance=advance,
        )

    def select(self, proposals: MaskCandidates, **thresholds: Any) -> list[dict[str, Any]]:
        """The records of proposals, without running the network.

        Args:
          thresholds: to replace the generator's own: pred_iou_thresh, stability_score_thresh, box_nms_thresh,
            crop_nms_thresh, min_mask_region_area, max_mask_area.

        Returns:
          As `generate`, for one image.
        """
        limits = self._completed(thresholds, tuple(self.thresholds))
        for name, floor in zip(FLOORS, proposals.floors, strict=True):
            if limits[name] < floor:
                raise ValueError(
                    f"{name} is {limits[name]}, but the proposals were made with {floor}: weaker ones are not among "
                    f"them. Ask for them: propose(image, {name}={limits[name]})"
                )
        largest = (
            np.inf
            if limits["max_mask_area"] is None
            else limits["max_mask_area"] * np.prod(proposals.hw)
        )
        good = proposals.predicted_iou > _iou_floor(limits["pred_iou_thresh"])
        good &= (proposals.stability >= limits["stability_score_thresh"]) & (
            proposals.area < largest
        )
        chosen = proposals.take(np.flatnonzero(good))
        chosen = chosen.take(_best_of_crops(chosen, limits["box_nms_thresh"]))
        if len(chosen.crops) > 1:  # what several crops show is taken from the smallest of them
            sizes = np.array([np.prod(crop.size) for crop in chosen.crops], np.float32)
            chosen = chosen.take(
                _suppressed(chosen.box, 1 / sizes[chosen.crop], limits["crop_nms_thresh"])
            )
        if limits["min_mask_region_area"] > 0:
            overlap = max(limits["box_nms_thresh"], limits["crop_nms_thresh"])
            chosen = _cleaned(chosen, limits["min_mask_region_area"], overlap)
            chosen = chosen.take(np.flatnonzero(chosen.area < largest))  # filled holes count
        return [_record(chosen, place, self.output_mode) for place in range(len(chosen))]

    def _completed(self, given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        if unknown := sorted(set(given) - set(names)):
            raise ValueError(
                f"unknown threshold {', '.join(unknown)}; there are {', '.join(names)}"
            )
        return {name: given.get(name, self.thresholds[name]) for name in names}


def label_map(records: Sequence[Mapping[str, Any]], hw: tuple[int, int]) -> np.ndarray:
    """One number a pixel: int32 [H, W], i + 1 where record i is, 0 where none is.

    Where masks overlap the smallest is seen: parts lie on what they are part of.

    Args:
      records: of one image, from `SamAutomaticMaskGenerator`, with any `output_mode`. hw: (height, width) of the image.
    """
    labels = np.zeros(hw, np.int32)
    for place in sorted(range(len(records)), key=lambda place: -records[place]["area"]):
        mask = binary_mask(records[place]["segmentation"])
        if mask.shape != labels.shape:
            raise ValueError(
                f"hw is {tuple(hw)}, but the masks are {mask.shape}; expected (height, width)"
            )
        labels[mask] = place + 1
    return labels


def binary_mask(segmentation: np.ndarray | Mapping[str, Any]) -> np.ndarray:
    """bool [H, W] of a record's segmentation, whatever its `output_mode`."""
    if isinstance(segmentation, np.ndarray):
        return segmentation
    (height, width), counts = segmentation["size"], segmentation["counts"]
    if isinstance(counts, str):
        return decode_mask(counts, height, width)
    return decode_run_lengths(np.asarray(counts), height, width, "segmentation")


def _iou_floor(threshold: float) -> float:
    """What predicted IoUs must exceed; as in segment-anything, a threshold of 0 or less is none."""
    return threshold if threshold > 0 else -np.inf


def _suppressed(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Places of the boxes that `nms` keeps, best score first, of equal ones the earlier.

    A block at a time joins those kept so far: that is still greedy, and the matrix of overlaps stays small.
    """
    order, kept = np.argsort(-scores, kind="stable"), np.zeros(0, int)
    for start in range(0, len(order), _BLOCK):
        trial = np.concatenate([kept, order[start : start + _BLOCK]])
        size = 1 << max(len(trial) - 1, 63).bit_length()  # few sizes, few compilations
        padded = np.pad(boxes[trial], ((0, size - len(trial)), (0, 0)))
        rank = -np.arange(size, dtype=np.float32)
        keep = _nms(padded, rank, np.float32(threshold), np.arange(size) < len(trial))
        kept = trial[np.asarray(keep)[: len(trial)]]
    return kept


def _best_of_crops(proposals: MaskCandidates, threshold: float) -> np.ndarray:
    """Places of what suppression within each crop leaves, crop by crop, each by falling predicted IoU."""
    kept = []
    for number in np.unique(proposals.crop):
        of_crop = np.flatnonzero(proposals.crop == number)
        kept.append(
            of_crop[
                _suppressed(proposals.box[of_crop], proposals.predicted_iou[of_crop], threshold)
            ]
        )
    return np.concatenate(kept) if kept else np.zeros(0, int)


def _cleaned(proposals: MaskCandidates, smallest: int, threshold: float) -> MaskCandidates:
    """Masks without small regions; of those that then overlap, edited ones go first."""
    if not len(proposals):
        return proposals
    rles, boxes, areas, untouched = [], [], [], []
    for rle in proposals.rle:
        mask, edited = remove_small_regions(decode_mask(rle, *proposals.hw), smallest)
        rles.append(encode_mask(mask) if edited else rle)
        boxes.append(compute_mask_box(mask) - (0, 0, 1, 1))
        areas.append(np.count_nonzero(mask))
        untouched.append(not edited)
    cleaned = dataclasses.replace(
        proposals, rle=rles, box=np.array(boxes, np.float32), area=np.array(areas)
    )
    return cleaned.take(_suppressed(cleaned.box, np.array(untouched, np.float32), threshold))


def _record(proposals: MaskCandidates, place: int, output_mode: str) -> dict[str, Any]:
    height, width = proposals.hw
    rle = proposals.rle[place]
    if output_mode == "binary_mask":
        segmentation = decode_mask(rle, height, width)
    else:
        counts = rle if output_mode == "coco_rle" else parse_run_lengths(rle).tolist()
        segmentation = {"size": [height, width], "counts": counts}
    x1, y1, x2, y2 = (int(edge) for edge in proposals.box[place])
    left, top, right, bottom = proposals.crops[proposals.crop[place]].box
    return {
        "segmentation": segmentation,
        "area": int(proposals.area[place]),
        "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1],
        "predicted_iou": float(proposals.predicted_iou[place]),
        "point_coords": [proposals.point[place].tolist()],
        "stability_score": float(proposals.stability[place]),
        "crop_box": [left, top, right - left, bottom - top],
    }


@contextlib.contextmanager
def progress_bar(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar of `total` clicks on the terminal; yields the function that moves it."""
    if not shown:
        yield lambda clicks: None
        return
    from rich import progress

    with progress.Progress() as bar:
        task = bar.add_task("clicks", total=total)
        yield lambda clicks: bar.advance(task, clicks)
