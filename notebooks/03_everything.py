# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Everything, and thresholds without running the network again
#
# You will segment all objects of an image by a grid of clicks, and tune the thresholds on stored
# candidates.

# %%
import time

import segjax
from segjax import inspect, viz
from segjax.data.synthetic.photographs import load_demonstration_photograph
from segjax.images.decoding import decode_image
from segjax.inference.sam.mask_records import make_label_map

image = decode_image(load_demonstration_photograph())
model, variables = segjax.load("sam_tiny_demo")
generator = segjax.SamAutomaticMaskGenerator(model, variables, points_per_side=24)

# %% [markdown]
# ## Propose once
#
# `propose` runs the network and keeps every candidate above low floors. `select` applies the
# thresholds and the suppression of duplicates.

# %%
start = time.time()
candidates = generator.propose(image, pred_iou_thresh=0.2, stability_score_thresh=0.3)
print(f"{len(candidates.rle)} candidates in {time.time() - start:.1f} s")

# %%
panels, captions = [], []
for pred_iou, stability in ((0.3, 0.5), (0.4, 0.6), (0.5, 0.6), (0.5, 0.8)):
    start = time.time()
    records = generator.select(
        candidates, pred_iou_thresh=pred_iou, stability_score_thresh=stability
    )
    seconds = time.time() - start
    panels.append(viz.draw_label_map(image, make_label_map(records, image.shape[:2])))
    captions.append(f"IoU {pred_iou}, stability {stability}: {len(records)} in {seconds:.2f} s")
inspect.strip(panels, captions, columns=2, side=420)

# %% [markdown]
# ## Records
#
# Each mask is a record with the keys of segment-anything.

# %%
inspect.Table(
    ("area", "predicted IoU", "stability", "click"),
    [
        (r["area"], r["predicted_iou"], r["stability_score"], str(r["point_coords"][0]))
        for r in records[:8]
    ],
)

# %%
assert len(candidates.rle) > 0

# %% [markdown]
# Next: `09_emergence` finds masks in features, without a decoder.
