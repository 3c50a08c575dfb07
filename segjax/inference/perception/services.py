"""How each prompt of `segjax.segment` is answered by the models."""

from typing import Any

import numpy as np

from segjax.inference.clip.clip import Clip, softmax
from segjax.inference.detection.sam_refinement import refine_masks
from segjax.inference.emergent.methods import find_emergent_masks
from segjax.inference.perception.labels import MaskLabeler
from segjax.inference.perception.models import Models
from segjax.inference.perception.panoptic import STUFF_SHARE, merge_panoptic
from segjax.inference.perception.prompts import (
    Classes,
    Everything,
    Example,
    MaskHint,
    Nothing,
    Points,
    Text,
)
from segjax.inference.perception.segments import Segments, make_segments
from segjax.inference.perception.semantic import vote_classes
from segjax.inference.sam.automatic import SamAutomaticMaskGenerator
from segjax.inference.sam.personalize import PersonalSam
from segjax.masks import compute_iou, compute_mask_box, decode_mask
from segjax.text.templates import parse_names

_SETTINGS = {"pred_iou": "pred_iou_thresh", "stability": "stability_score_thresh"}


def follow_prompt(models: Models, image: np.ndarray, prompt: Any) -> Segments:
    """Segments the object of clicks, a box or a rough mask. Returns the most confident mask."""
    predictor = models.sam
    predictor.set_image(image)
    if isinstance(prompt, MaskHint):
        masks, iou = _improve_mask(predictor, np.asarray(prompt.mask, bool), image.shape[:2])
    elif isinstance(prompt, Points):
        # Clicks
        xy = np.asarray(prompt.xy, float).reshape(-1, 2)
        labels = np.ones(len(xy), int) if prompt.labels is None else np.asarray(prompt.labels)
        # One click may mean a part or a whole, so three masks compete
        several = len(xy) == 1 and prompt.box is None
        masks, iou, _ = predictor.predict(xy, labels, prompt.box, multimask_output=several)
    else:
        masks, iou, _ = predictor.predict(box=np.asarray(prompt.xyxy), multimask_output=False)
    best = int(np.argmax(iou))
    return make_segments(
        masks[best : best + 1], iou[best : best + 1], "interactive", masks.shape[1:]
    )


def _improve_mask(predictor: Any, mask: np.ndarray, hw: tuple[int, int]) -> tuple[Any, Any]:
    """Predicts a mask from the box of a rough one, and again with the first result."""
    if mask.shape != hw:
        raise ValueError(f"the mask is {mask.shape}, the image {hw}; expected one size")
    if not mask.any():
        raise ValueError("the mask is empty; expected a rough mask of the object")
    box = compute_mask_box(mask)
    masks, iou, low_res = predictor.predict(box=box)
    # The candidate that is most like the rough mask
    overlap = [compute_iou(one, mask) for one in masks]
    chosen = low_res[int(np.argmax(overlap))][None]
    masks, iou, _ = predictor.predict(box=box, mask_input=chosen, multimask_output=False)
    return masks, iou


def find_everything(models: Models, image: np.ndarray, prompt: Everything) -> Segments:
    """Segments all objects by a grid of clicks, or by the features of a network."""
    if prompt.emergent:
        found = find_emergent_masks(*models.encoder, image, prompt.emergent, **prompt.options)
        return make_segments(found.masks, found.scores, "emergent", image.shape[:2])
    masks, scores = _propose(models, image, prompt.options)
    return make_segments(masks, scores, "everything", image.shape[:2])


def _propose(
    models: Models, image: np.ndarray, options: dict[str, Any] | None = None
) -> tuple[list[np.ndarray], list[float]]:
    """Returns the masks of everything in an image and their predicted IoU."""
    predictor = models.sam
    settings = {_SETTINGS[key]: value for key, value in models.thresholds.items()}
    settings |= dict(percentiles=predictor.percentiles) | models.everything | (options or {})
    generator = SamAutomaticMaskGenerator(predictor.model, predictor.variables, **settings)
    records = generator.generate(image)
    return (
        [record["segmentation"] for record in records],
        [record["predicted_iou"] for record in records],
    )


def detect_objects(models: Models, image: np.ndarray, prompt: Nothing) -> Segments:
    """Segments the objects of a detector's classes."""
    detector = models.detector
    found = detector.detect([image])[0]
    if found.masks is None and not prompt.refine:
        raise ValueError(
            "this detector has no masks; ask for Nothing(refine=True), which draws them by a SAM"
        )
    if prompt.refine:
        found = refine_masks(models.sam, image, found)
    masks = [decode_mask(counts, *found.hw) for counts in found.masks]
    labels = np.asarray(found.labels) - 1
    return make_segments(masks, found.scores, "instance", found.hw, labels, detector.names)


def _find_labeler(models: Models, names: tuple[str, ...], templates: str) -> MaskLabeler:
    """Returns the labeler of names, whose vectors are computed once for all images."""
    key = (names, templates)
    if key not in models.labelers:
        models.labelers[key] = MaskLabeler(models.clip, names, templates=templates)
    return models.labelers[key]


def _label(models: Models, image: np.ndarray, prompt: Classes) -> tuple[Any, ...]:
    """Returns the masks of everything, their quality, and the probabilities of the classes."""
    # Masks first, names second
    labeler = _find_labeler(models, tuple(prompt.names), models.templates)
    masks, quality = _propose(models, image)
    return masks, quality, labeler.label(image, masks).probabilities


def name_instances(models: Models, image: np.ndarray, prompt: Classes) -> Segments:
    """Segments everything and names each object. Objects without a likely name are left out."""
    masks, _, chances = _label(models, image, prompt)
    kept = [i for i in range(len(masks)) if chances[i].max() >= max(prompt.min_score, 1e-9)]
    labels = [int(chances[i].argmax()) for i in kept]
    scores = [float(chances[i].max()) for i in kept]
    chosen = [masks[i] for i in kept]
    return make_segments(chosen, scores, "instance", image.shape[:2], labels, prompt.names)


def name_pixels(models: Models, image: np.ndarray, prompt: Classes) -> Segments:
    """Segments an image into one mask per class, by the votes of everything's masks."""
    classes, share = vote_classes(*_label(models, image, prompt), image.shape[:2])
    labels = [k for k in range(len(prompt.names)) if (classes == k).any()]
    scores = [_average_share(share, classes == k) for k in labels]
    kept = [i for i, score in enumerate(scores) if score >= prompt.min_score]
    return make_segments(
        [classes == labels[i] for i in kept],
        [scores[i] for i in kept],
        "semantic",
        image.shape[:2],
        [labels[i] for i in kept],
        prompt.names,
    )


def _average_share(share: np.ndarray, region: np.ndarray) -> float:
    """Returns the mean share of the votes in a region, over the pixels that masks voted for."""
    voted = share[region & (share > 0)]
    return float(voted.mean()) if voted.size else 0.0


def name_panoptic(models: Models, image: np.ndarray, prompt: Classes) -> Segments:
    """Segments an image into objects of things and regions of stuff, without overlaps."""
    hw = image.shape[:2]
    masks, quality, chances = _label(models, image, prompt)
    classes, share = vote_classes(masks, quality, chances, hw)
    number = len(prompt.things)
    best = chances.argmax(axis=1) if len(masks) else np.zeros(0, int)
    objects = [i for i, k in enumerate(best) if k < number and chances[i, k] >= prompt.min_score]
    # Things by quality times probability, then stuff on what is left
    ids, rows = merge_panoptic(
        [masks[i] for i in objects],
        [float(chances[i, best[i]] * quality[i]) for i in objects],
        [int(best[i]) for i in objects],
        classes,
        range(number, len(prompt.names)),
        least_score=0.0,
        smallest_stuff=max(1, round(STUFF_SHARE * hw[0] * hw[1])),
    )
    found = [ids == row["id"] for row in rows]
    return make_segments(
        found,
        [row.get("score", _average_share(share, m)) for row, m in zip(rows, found, strict=True)],
        "panoptic",
        hw,
        [row["category_id"] for row in rows],
        prompt.names,
        [bool(row["isthing"]) for row in rows],
    )


def follow_text(models: Models, image: np.ndarray, prompt: Text) -> Segments:
    """Segments the object of each phrase.

    A SAM with text prompts predicts it. Otherwise CLIP chooses among everything's masks. Relations
    such as "left of" cannot be seen in a mask alone.
    """
    phrases = parse_names(prompt.phrases) if prompt.phrases else []
    if not phrases:
        raise ValueError("no phrase is given; expected at least one")
    clip, predictor = models.clip, models.sam
    if predictor.model.text_width:
        predictor.set_image(image)
        found, iou, _ = predictor.predict_batch(texts=phrases, multimask_output=False)
        masks, scores = list(found[:, 0]), iou[:, 0]
    else:
        masks, scores = _choose_by_clip(models, clip, image, phrases)
    kept = [i for i, mask in enumerate(masks) if mask.any() and scores[i] >= prompt.min_score]
    return make_segments(
        [masks[i] for i in kept],
        [float(scores[i]) for i in kept],
        "referring",
        image.shape[:2],
        kept,
        phrases,
    )


def _choose_by_clip(
    models: Models, clip: Clip, image: np.ndarray, phrases: list[str]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns for each phrase the mask of everything that is most like it, and its probability."""
    labeler = _find_labeler(models, tuple(phrases), "name")
    masks, _ = _propose(models, image)
    if not masks:
        return [np.zeros(image.shape[:2], bool)] * len(phrases), np.zeros(len(phrases))
    logits = clip.scale * labeler.encode(image, masks) @ labeler.vectors.T
    chances = softmax(logits.T)  # over the masks
    best = chances.argmax(axis=1)
    return [masks[i] for i in best], chances[np.arange(len(phrases)), best]


def follow_example(models: Models, image: np.ndarray, prompt: Example) -> Segments:
    """Segments the object of an example (PerSAM)."""
    # An example is encoded, and perhaps learned, once for all images
    if models.example is None or models.example[0] is not prompt:
        personal = PersonalSam(models.sam)
        personal.set_example(prompt.image, prompt.mask, learn=prompt.learn)
        models.example = (prompt, personal)
    found = models.example[1].predict(image)
    return make_segments([found.mask], [found.score], "interactive", image.shape[:2])
