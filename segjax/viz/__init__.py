"""Pictures of masks, prompts and detections: uint8 RGB arrays in, uint8 RGB arrays out."""

from segjax.viz.detection import detection_overlay, detection_sheet, readable_scale
from segjax.viz.drawing import (
    BACKGROUND,
    FOREGROUND,
    MISSED,
    PALETTE,
    WRONG,
    classification_sheet,
    completed_picture,
    draw_prompts,
    error_map,
    interaction_sheet,
    label_overlay,
    masked_picture,
    overlay,
    reconstruction_sheet,
    spotlight,
)

__all__ = [
    "BACKGROUND",
    "FOREGROUND",
    "MISSED",
    "PALETTE",
    "WRONG",
    "classification_sheet",
    "completed_picture",
    "detection_overlay",
    "detection_sheet",
    "draw_prompts",
    "error_map",
    "interaction_sheet",
    "label_overlay",
    "masked_picture",
    "overlay",
    "readable_scale",
    "reconstruction_sheet",
    "spotlight",
]
