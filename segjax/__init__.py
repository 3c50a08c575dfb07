"""segjax: image segmentation in JAX.

    model, variables = segjax.load("runs/quickstart")
    predictor = segjax.SamPredictor(model, variables)
    predictor.set_image(image)                                       # uint8 [H, W, 3], RGB
    masks, iou, low_res = predictor.predict(point_coords=[[x, y]], point_labels=[1])

    detector = segjax.Detector.load("runs/mask_rcnn")
    detections = detector([image])[0]                                # boxes, labels, scores, masks

    segments = segjax.segment(image, segjax.Points([[x, y]]))        # any prompt, any model

`import segjax` imports no other module. Names are imported when they are first used.
"""

import importlib
from typing import Any

_HOME = {
    "Box": "segjax.inference.perception.prompts",
    "Classes": "segjax.inference.perception.prompts",
    "Clip": "segjax.inference.clip.clip",
    "Detector": "segjax.inference.detection.detector",
    "Everything": "segjax.inference.perception.prompts",
    "Example": "segjax.inference.perception.prompts",
    "MaskHint": "segjax.inference.perception.prompts",
    "Nothing": "segjax.inference.perception.prompts",
    "Points": "segjax.inference.perception.prompts",
    "SamAutomaticMaskGenerator": "segjax.inference.sam.automatic",
    "SamPredictor": "segjax.inference.sam.predictor",
    "Segmenter": "segjax.inference.perception.segment",
    "Segments": "segjax.inference.perception.segments",
    "Text": "segjax.inference.perception.prompts",
    "available_models": "segjax.inference.loading",
    "load": "segjax.inference.loading",
    "prepare": "segjax.data.prepare",
    "register_experiment": "segjax.registry",
    "register_family": "segjax.registry",
    "register_source": "segjax.registry",
    "register_task": "segjax.registry",
    "save_variables": "segjax.weights.safetensors",
    "segment": "segjax.inference.perception.segment",
}

__all__ = [
    "Box",
    "Classes",
    "Clip",
    "Detector",
    "Everything",
    "Example",
    "MaskHint",
    "Nothing",
    "Points",
    "SamAutomaticMaskGenerator",
    "SamPredictor",
    "Segmenter",
    "Segments",
    "Text",
    "__version__",
    "available_models",
    "load",
    "prepare",
    "register_experiment",
    "register_family",
    "register_source",
    "register_task",
    "save_variables",
    "segment",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value = version("segjax")
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    else:
        import difflib

        near = difflib.get_close_matches(name, __all__, 1)
        raise AttributeError(
            f"module 'segjax' has no attribute {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
