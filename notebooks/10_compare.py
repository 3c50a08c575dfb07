# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Train a little, and compare two checkpoints
#
# You will fine-tune the demo model for a few steps on synthetic scenes, see which parameters moved,
# and compare the masks of both models.

# %%
import pathlib
import tempfile

import numpy as np

import segjax
from segjax import inspect
from segjax.cli.experiments import read_config
from segjax.data.examples.place_objects import decode_record_image
from segjax.data.splits import open_split
from segjax.masks import decode_mask
from segjax.tasks import complete_config, make_task
from segjax.training.loop import train

# %% [markdown]
# ## Thirty steps
#
# The recipe of `sam/finetune:tiny`, on scenes of colored shapes instead of a prepared folder.

# %%
config = read_config("sam/finetune:tiny")
config.update(total_steps=30, log_every=10)
config.optimizer.warmup_steps = 5
config.data.update(source="synthetic", train_split="train", eval_split="val")
config.data.scenes.update(train_count=64, eval_count=8, size=256)
config.eval.at_end = False
config = complete_config(config)
run = pathlib.Path(tempfile.mkdtemp()) / "run"
state = train(make_task(config), config, run)

# %% [markdown]
# ## What moved
#
# The norm of each array's change over its own norm, the largest first.

# %%
model, before = segjax.load("sam_tiny_demo", canvas=256)
_, after = segjax.load(run)
inspect.compare(before["params"], after["params"], limit=10)

# %% [markdown]
# ## Masks of both
#
# One click on each object of a held-out scene.

# %%
records = open_split(config.data.to_dict(), "eval")
rows, captions, scores = [], [], {"before": [], "after": []}
for index in range(2):
    record = records[index]
    image = decode_record_image(record)
    rle = record["objects"]["rle"][0]
    truth = decode_mask(rle, record["height"], record["width"])
    y, x = np.argwhere(truth)[truth.sum() // 2]
    prompt = {"point_coords": [[int(x), int(y)]], "point_labels": [1]}
    for name, variables in (("before", before), ("after", after)):
        predictor = segjax.SamPredictor(model, variables)
        predictor.set_image(image)
        masks, iou, _ = predictor.predict(**prompt)
        mask = masks[int(iou.argmax())]
        scores[name].append(float((mask & truth).sum() / (mask | truth).sum()))
        rows.append(inspect.show(image, mask, prompt))
        captions.append(f"{name}: IoU {scores[name][-1]:.2f}")
inspect.strip(rows, captions, columns=2, side=300)

# %%
assert all(np.isfinite(scores["after"]))

# %% [markdown]
# Thirty steps show how to compare; they are not a training. The tutorial "Fine-tune on your masks"
# takes a folder of yours, and `segjax eval` measures it.
