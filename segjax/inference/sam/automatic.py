"""Automatic mask generation: every object of an image, from a grid of clicks.

SAM, section 5 and appendix B. There are two steps. `propose` runs the network, and `select` applies
the thresholds, so thresholds can be tuned without running the network again. `generate` does both.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segjax.images.decoding import decode_image
from segjax.inference.numbers import check_numbers
from segjax.inference.sam.candidate_filters import (
    clean_masks,
    get_iou_floor,
    suppress_between_crops,
    suppress_within_crops,
)
from segjax.inference.sam.candidates import MaskCandidates, join_candidates, propose_masks
from segjax.inference.sam.crops import make_crops, make_point_grids
from segjax.inference.sam.jitted import encode_images, resize_to_canvas
from segjax.inference.sam.mask_records import OUTPUT_MODES, make_record
from segjax.models.sam.sam import Sam

FLOORS = ("pred_iou_thresh", "stability_score_thresh")


class SamAutomaticMaskGenerator:
    """Generator of masks for everything in an image.

    The arguments up to `output_mode` are those of segment-anything, whose masks it finds. The later
    ones are additions.

    Example:
      >>> model, variables = segjax.load("sam_vit_b")
      >>> generator = segjax.SamAutomaticMaskGenerator(model, variables, points_per_side=16)
      >>> records = generator.generate(image)
      >>> largest = max(records, key=lambda record: record["area"])["segmentation"]

    Args:
      model: The SAM, from `segjax.load`.
      variables: Its variables, from `segjax.load`.
      points_per_side: Points along each side of the grid over the whole image. None with
        `point_grids`.
      points_per_batch: Number of clicks that are decoded in one call.
      pred_iou_thresh: Predicted IoU that a mask must exceed. 0 or less: no threshold.
      stability_score_thresh: Stability score that a mask must reach (see `stability_score`).
      stability_score_offset: Offset of the two thresholds of the stability score, in logits.
      box_nms_thresh: IoU threshold of non-maximum suppression among the masks of one crop. The mask
        with the lower predicted IoU is removed.
      crop_n_layers: Number of crop layers. Layer i has 4 ** i crops. 0: only the whole image.
      crop_nms_thresh: IoU threshold of non-maximum suppression between crops. The mask of the
        larger crop is removed.
      crop_overlap_ratio: Overlap of crops, see `make_crops`.
      crop_n_points_downscale_factor: Layer i has points_per_side / factor ** i points per side.
      point_grids: One grid per layer, each [N, 2], (x, y) in the unit square.
      min_mask_region_area: Holes and islands of fewer pixels are removed. 0: no clean-up.
      output_mode: Format of "segmentation": "binary_mask" (bool [H, W]), "uncompressed_rle" or
        "coco_rle". The run-length encodings need little memory.
      max_mask_area: Masks that cover this fraction of the image or more are removed. SAM's paper
        uses 0.95 (appendix B), and its code removes none. None: no limit.
      percentiles: (low, high). Stretches each image's intensities as in training.
      views_per_batch: Number of images or crops that are embedded in one call.
      progress: Show a progress bar, or call this function with the number of clicks that are done
        and of all clicks.

    Raises:
      ValueError: Unknown output mode, neither or both of points_per_side and point_grids, too few
        grids, or a number below its minimum.
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
        progress: bool | Callable[[int, int], None] = False,
    ) -> None:
        for name, value, minimum in (
            ("points_per_batch", points_per_batch, 1),
            ("crop_n_layers", crop_n_layers, 0),
            ("crop_n_points_downscale_factor", crop_n_points_downscale_factor, 1),
            ("views_per_batch", views_per_batch, 1),
        ):
            if not value >= minimum:
                raise ValueError(f"{name} is {value}; expected at least {minimum}")
        if output_mode not in OUTPUT_MODES:
            raise ValueError(
                f"output_mode {output_mode!r} is unknown; choose one of {', '.join(OUTPUT_MODES)}"
            )
        self.model, self.variables = model, jax.device_put(dict(variables))
        self.point_grids = make_point_grids(
            points_per_side, point_grids, crop_n_layers, crop_n_points_downscale_factor
        )
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
        check_numbers(**self.thresholds, stability_score_offset=stability_score_offset)
        check_numbers(0, 1, crop_overlap_ratio=crop_overlap_ratio)
        self.output_mode, self.percentiles = output_mode, percentiles
        self.views_per_batch, self.progress = views_per_batch, progress

    def generate(self, image: np.ndarray | Sequence[np.ndarray]) -> list:
        """Generates the records of an image, or of each of several images.

        Args:
          image: uint8 [H, W, 3], RGB, or a list of such images. Gray, RGBA and uint16 are accepted
            as by `SamPredictor`.

        Returns:
          A list of dicts, one per mask, or a list of such lists. The order is segment-anything's:
          descending predicted IoU within a crop, the smallest crops first, and after clean-up the
          unchanged masks first. The keys are:

          segmentation: The mask, see `output_mode`.
          area: Pixels of the mask.
          bbox: [x, y, width, height] in pixels. A mask of one pixel is 1 x 1.
          predicted_iou: IoU as the IoU prediction head estimates it.
          point_coords: [[x, y]], the click, in pixels.
          stability_score: See `stability_score`.
          crop_box: [x, y, width, height] of the crop, in pixels.
        """
        if not isinstance(image, list | tuple) and np.ndim(image) <= 3:
            return self.select(self.propose(image))
        return [self.select(candidates) for candidates in self.propose_all(image)]

    def propose(self, image: np.ndarray, **floors: float) -> MaskCandidates:
        """Runs the network on one image and returns its candidates, for `select`.

        Args:
          image: As in `generate`.
          **floors: `pred_iou_thresh` and `stability_score_thresh`. If they are below the
            generator's own thresholds, `select` can use any threshold from there up.
        """
        return self.propose_all([image], **floors)[0]

    def propose_all(self, images: Sequence[np.ndarray], **floors: float) -> list[MaskCandidates]:
        """Runs `propose` on several images, embedding `views_per_batch` images or crops at once.

        Args:
          images: Images as in `generate`.
          **floors: As in `propose`.
        """
        floors = self._complete_thresholds(floors, FLOORS)
        candidates = []
        for start in range(0, len(images), self.views_per_batch):
            group = images[start : start + self.views_per_batch]
            pixels = [
                decode_image(
                    np.asarray(image), name=f"image {number}", percentiles=self.percentiles
                )
                for number, image in enumerate(group, start)
            ]
            candidates += self._propose_group(pixels, floors)
        return candidates

    def _propose_group(
        self, images: list[np.ndarray], floors: Mapping[str, float]
    ) -> list[MaskCandidates]:
        """Returns the candidates of decoded images. Crops of several images share a batch."""
        # Views are all crops of all images, each an image index and a crop index.
        crops = [
            make_crops(image.shape[:2], self.crop_n_layers, self.crop_overlap_ratio)
            for image in images
        ]
        parts: list[list[dict[str, Any]]] = [[] for _ in images]
        views = [(i, number) for i, own in enumerate(crops) for number in range(len(own))]
        clicks = sum(len(self.point_grids[crops[i][number].layer]) for i, number in views)
        with show_progress(clicks, self.progress) as advance:
            for start in range(0, len(views), self.views_per_batch):
                # Embed a batch of crops.
                batch = views[start : start + self.views_per_batch]
                cuts = [crops[i][number].cut(images[i]) for i, number in batch]
                contents = resize_to_canvas(cuts, self.model.canvas)
                embeddings = encode_images(
                    self.model, self.variables, contents, per_batch=self.views_per_batch
                )
                # Predict and measure the masks of each crop.
                for (i, number), embedding in zip(batch, embeddings, strict=True):
                    crop = crops[i][number]
                    for part in propose_masks(
                        self.model,
                        self.variables,
                        embedding,
                        crop,
                        self.point_grids[crop.layer],
                        images[i].shape[:2],
                        points_per_batch=self.points_per_batch,
                        iou_floor=get_iou_floor(floors["pred_iou_thresh"]),
                        stability_floor=floors["stability_score_thresh"],
                        stability_offset=self.stability_score_offset,
                        advance=advance,
                    ):
                        parts[i].append(part | {"crop": np.full(len(part["rle"]), number)})
        return [
            join_candidates(image.shape[:2], *rest, tuple(floors.values()))
            for image, *rest in zip(images, crops, parts, strict=True)
        ]

    def select(self, candidates: MaskCandidates, **thresholds: Any) -> list[dict[str, Any]]:
        """Filters candidates and returns their records, without running the network.

        Args:
          candidates: From `propose`.
          **thresholds: Values that replace the generator's own: pred_iou_thresh,
            stability_score_thresh, box_nms_thresh, crop_nms_thresh, min_mask_region_area and
            max_mask_area.

        Returns:
          Records of one image, as `generate` returns them.

        Raises:
          ValueError: Unknown threshold, or one below the floor that the candidates were made with.
        """
        limits = self._complete_thresholds(thresholds, tuple(self.thresholds))
        for name, floor in zip(FLOORS, candidates.floors, strict=True):
            if limits[name] < floor:
                raise ValueError(
                    f"{name} is {limits[name]}, but the candidates were made with {floor} and lack "
                    f"weaker ones. Propose them again: propose(image, {name}={limits[name]})"
                )
        max_area = np.inf
        if limits["max_mask_area"] is not None:
            max_area = float(limits["max_mask_area"]) * np.prod(candidates.hw)

        # Predicted IoU, stability score and area
        good = candidates.predicted_iou > get_iou_floor(limits["pred_iou_thresh"])
        good &= candidates.stability >= limits["stability_score_thresh"]
        good &= candidates.area < max_area
        chosen = candidates.take(np.flatnonzero(good))

        # Non-maximum suppression, within crops and between them
        chosen = suppress_within_crops(chosen, limits["box_nms_thresh"])
        chosen = suppress_between_crops(chosen, limits["crop_nms_thresh"])

        # Small holes and islands
        if limits["min_mask_region_area"] > 0:
            overlap = max(limits["box_nms_thresh"], limits["crop_nms_thresh"])
            chosen = clean_masks(chosen, limits["min_mask_region_area"], overlap)
            chosen = chosen.take(np.flatnonzero(chosen.area < max_area))  # filled holes count
        return [make_record(chosen, index, self.output_mode) for index in range(len(chosen))]

    def _complete_thresholds(
        self, given: Mapping[str, Any], names: Sequence[str]
    ) -> dict[str, Any]:
        """Returns the named thresholds: those given, else the generator's own."""
        if unknown := sorted(set(given) - set(names)):
            raise ValueError(
                f"unknown threshold {', '.join(unknown)}; choose from {', '.join(names)}"
            )
        check_numbers(**given)
        return {name: given.get(name, self.thresholds[name]) for name in names}


@contextlib.contextmanager
def show_progress(
    total: int, shown: bool | Callable[[int, int], None]
) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar on the terminal, and yields the function that advances it.

    Args:
      total: Number of clicks.
      shown: False shows nothing. A function is called instead, with the clicks done and `total`.
    """
    if callable(shown):
        done = 0

        def report(clicks: int) -> None:
            """Adds clicks to those that are done."""
            nonlocal done
            done += clicks
            shown(done, total)

        yield report
        return
    if not shown:
        yield lambda clicks: None
        return
    from rich import progress

    with progress.Progress() as bar:
        task = bar.add_task("clicks", total=total)
        yield lambda clicks: bar.advance(task, clicks)
