"""Drop-in interface of segment-anything: a program changes only its import line.

    from segjax.compat.segment_anything import (
        SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
    )

    sam = sam_model_registry["vit_b"](checkpoint="sam_vit_b_01ec64.pth")
    sam.to(device="cuda")
    predictor = SamPredictor(sam)

You can skip these thin layers; the work is done by `segjax.SamPredictor` and
`segjax.SamAutomaticMaskGenerator`. Torch is not required. Torch tensors come back as tensors on the
same device, and NumPy arrays as NumPy arrays.

Differences from segment-anything:

* JAX places its arrays itself (`JAX_PLATFORMS`, `jax.default_device`). `to`, `cuda` and `cpu` move
  nothing. They set the device on which torch tensors are made. `device` is the CPU if torch does
  not have the requested device.
* Invalid prompts raise ValueError: points outside the image, boxes without area, and labels other
  than 1, 0 and -1.
* Boxes of the mask generator are exact. In segment-anything they are a pixel short in width and
  height.
* Removing small regions does not need OpenCV.
* The parts are not modules: `sam.image_encoder` has its `img_size` but cannot be called. For
  training, gradients and export, use the linen module `sam.network` and its variables
  `sam.variables`. There is no `SamOnnxModel`. `segjax export --onnx decoder` writes its file.
"""

from segjax.compat.segment_anything.predictor import SamAutomaticMaskGenerator, SamPredictor
from segjax.compat.segment_anything.registry import (
    build_sam,
    build_sam_vit_b,
    build_sam_vit_h,
    build_sam_vit_l,
    sam_model_registry,
)
from segjax.compat.segment_anything.sam import Sam
from segjax.compat.segment_anything.transforms import ResizeLongestSide

__all__ = [
    "ResizeLongestSide",
    "Sam",
    "SamAutomaticMaskGenerator",
    "SamPredictor",
    "build_sam",
    "build_sam_vit_b",
    "build_sam_vit_h",
    "build_sam_vit_l",
    "sam_model_registry",
]
