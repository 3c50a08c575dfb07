"""Draws masks, prompts, detections and sheets: uint8 RGB arrays in, uint8 RGB arrays out."""

from segjax.viz.annotations import (
    draw_annotation_sheet,
    draw_annotations,
    objects_of_example,
)
from segjax.viz.detection import choose_readable_scale, draw_detection_sheet, draw_detections
from segjax.viz.drawing import (
    BACKGROUND,
    FOREGROUND,
    MISSED,
    PALETTE,
    WRONG,
    draw_errors,
    draw_highlighted_mask,
    draw_label_map,
    draw_masks,
    draw_prompts,
)
from segjax.viz.mask_sheet import draw_mask_sheet
from segjax.viz.named_masks import draw_named_masks
from segjax.viz.patches import fill_patches, hide_patches
from segjax.viz.predictions import draw_candidate_sheet, draw_predictions
from segjax.viz.sheets import (
    draw_classification_sheet,
    draw_interaction_sheet,
    draw_reconstruction_sheet,
)
from segjax.viz.show import show

__all__ = [
    "BACKGROUND",
    "FOREGROUND",
    "MISSED",
    "PALETTE",
    "WRONG",
    "choose_readable_scale",
    "draw_annotation_sheet",
    "draw_annotations",
    "draw_candidate_sheet",
    "draw_classification_sheet",
    "draw_detection_sheet",
    "draw_detections",
    "draw_errors",
    "draw_highlighted_mask",
    "draw_interaction_sheet",
    "draw_label_map",
    "draw_mask_sheet",
    "draw_masks",
    "draw_named_masks",
    "draw_predictions",
    "draw_prompts",
    "draw_reconstruction_sheet",
    "fill_patches",
    "hide_patches",
    "objects_of_example",
    "show",
]
