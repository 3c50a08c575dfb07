"""The interface of segment-anything: a program written for it changes the line that imports it, and nothing else.

    from segjax.compat.segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry

    sam = sam_model_registry["vit_b"](checkpoint="sam_vit_b_01ec64.pth")
    sam.to(device="cuda")
    predictor = SamPredictor(sam)

These are thin: the work is that of `segjax.SamPredictor` and `segjax.SamAutomaticMaskGenerator`. Torch is not needed.
What is given as torch tensors comes back as such, on the same device; NumPy arrays come back as NumPy arrays.

What is not as there:

* JAX places its arrays itself (`JAX_PLATFORMS`, `jax.default_device`). `to`, `cuda` and `cpu` move nothing: they say
  where torch tensors are to be made, and `device` is the CPU where torch has none of what was asked for.
* A prompt that cannot be meant is an error: points outside the picture, boxes without area, labels other than 1, 0, -1.
* Boxes of the mask generator are exact (there they are a pixel short in width and height), and removing small regions
  needs no OpenCV.
* The parts are not modules: `sam.image_encoder` has its `img_size`, but is not called. For training, gradients and
  export use the linen module and its variables, `sam.network` and `sam.variables`. There is no `SamOnnxModel`.
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
