# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Click and refine
#
# You will segment an object by one click, compare the three masks of an ambiguous click, and
# improve the mask by further clicks and by a box.

# %%
import numpy as np

import segjax
from segjax import inspect
from segjax.data.synthetic.photographs import load_demonstration_photograph
from segjax.images.decoding import decode_image

image = decode_image(load_demonstration_photograph())
predictor = segjax.SamPredictor.load("sam_tiny_demo")
predictor.set_image(image)

# %% [markdown]
# ## One click, three masks
#
# A click on the cup may mean the cup, its inside or the saucer. SAM answers with three masks, and
# predicts the IoU of each.

# %%
first = {"point_coords": [[290, 120]], "point_labels": [1]}
masks, iou, low_res = predictor.predict(**first)
inspect.strip(
    [inspect.show(image, mask, first) for mask in masks],
    [f"mask {n + 1}: predicted IoU {score:.2f}" for n, score in enumerate(iou)],
    side=320,
)

# %% [markdown]
# ## More clicks
#
# Each further click goes in together with the logits of the last mask, and gives one mask. Label 0
# says "not this".

# %%
panels, captions = [], []
clicks, mask_input = [[290, 120]], low_res[int(iou.argmax())][None]
labels = [1]
for x, y, label in ([230, 200, 1], [420, 330, 0], [360, 120, 1], [150, 330, 0]):
    clicks.append([x, y])
    labels.append(label)
    prompt = {"point_coords": clicks, "point_labels": labels}
    masks, iou, low_res = predictor.predict(**prompt, mask_input=mask_input, multimask_output=False)
    mask_input = low_res
    panels.append(inspect.show(image, masks[0], prompt))
    captions.append(f"{len(clicks)} clicks: predicted IoU {iou[0]:.2f}")
inspect.strip(panels, captions)

# %% [markdown]
# ## A box

# %%
box = {"box": [170, 60, 420, 290]}
masks, iou, _ = predictor.predict(**box, multimask_output=False)
inspect.show(image, masks[0], box)

# %%
assert masks.shape == (1, *image.shape[:2]) and np.isfinite(iou).all()

# %% [markdown]
# The demo model has 1.2 million parameters and was trained for some hours on a CPU. The same calls
# take `sam_vit_b`. Next: `03_everything`.
