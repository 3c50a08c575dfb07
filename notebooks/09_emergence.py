# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Masks that emerge from features
#
# You will look at the features of a network that was not asked for masks, and cut an image by them.

# %%
import jax.numpy as jnp
import numpy as np

import segjax
from segjax import inspect, viz
from segjax.data.synthetic.photographs import load_demonstration_photograph
from segjax.images.decoding import decode_image
from segjax.inference.emergent.features import extract_features
from segjax.inference.emergent.methods import find_emergent_masks
from segjax.inference.emergent.pictures import color_components

image = decode_image(load_demonstration_photograph())
model, variables = segjax.load("sam_tiny_demo")

# %% [markdown]
# ## Features as colors
#
# The first three principal components of the features of each patch, with fixed signs.

# %%
panels, captions = [], []
for kind in ("keys", "values", "tokens"):
    found = extract_features(model, variables, image, kind=kind, size=512)
    colors = np.asarray(color_components(jnp.asarray(found.features))).reshape(*found.grid, 3)
    panels.append((255 * colors).astype(np.uint8))
    captions.append(kind)
inspect.strip(panels, captions, side=320)

# %% [markdown]
# ## Cuts
#
# Normalized cuts separate patches that are not alike. A SAM's encoder keeps its features local, so
# the segments are many and small; DINO's features follow objects. `segjax.load` takes its files.

# %%
panels, captions = [], []
for method in ("tokencut", "maskcut", "ncut", "merge"):
    found = find_emergent_masks(model, variables, image, method, size=256)
    panels.append(viz.draw_masks(image, found.masks))
    captions.append(f"{method}: {len(found.masks)} masks")
inspect.strip(panels, captions, columns=2, side=420)

# %%
assert all(len(caption) for caption in captions)

# %% [markdown]
# The guide "One function for every prompt" lists the methods and what they need.
