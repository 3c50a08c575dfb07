# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Look inside a SAM
#
# You will see what a SAM is made of, how its parameters are divided among devices, and where the
# mask decoder looks for one click.

# %%
import os

# Eight simulated devices, set before jax is imported
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import numpy as np

import segjax
from segjax import inspect
from segjax.data.synthetic.photographs import load_demonstration_photograph
from segjax.images.decoding import decode_image
from segjax.models.build import build_model

# %% [markdown]
# ## Parameters
#
# `summary` needs no arrays: it traces the initialization. Almost all of a large SAM is its image
# encoder; the decoder that runs for every click has 4 million parameters.

# %%
inspect.summary(build_model("sam_vit_b"), depth=1)

# %%
model, variables = segjax.load("sam_tiny_demo")
inspect.summary(model, depth=2)

# %% [markdown]
# ## Sharding
#
# The mesh has two axes. Parameters and optimizer state are divided over `fsdp`; batches over both.

# %%
from segjax.training.sharding import make_mesh, state_shardings  # noqa: E402

mesh = make_mesh(data=2, fsdp=4)
# Small arrays stay whole. The floor is low here, because this model is small.
shardings = state_shardings(variables["params"], mesh, floor=2**12)
params = jax.device_put(variables["params"], shardings)
inspect.sharding_table(params, limit=8)

# %% [markdown]
# ## Where one click looks
#
# Each layer of the two-way transformer: tokens look at the image, then the image at the tokens. The
# maps are the mean over heads for the token of the single mask.

# %%
image = decode_image(load_demonstration_photograph())
prompt = {"point_coords": [[290, 120]], "point_labels": [1]}
predictor = segjax.SamPredictor(model, variables)
predictor.set_image(image)
masks, iou, _ = predictor.predict(**prompt)
inspect.show(image, masks[int(iou.argmax())], prompt)

# %%
maps = inspect.attention_maps(model, variables, image, prompt)
looking = [one for one in maps if one.grid is not None]
height, width = predictor.input_size
cells = (-(-height // model.patch), -(-width // model.patch))  # without the padding
inspect.strip(
    [inspect.draw_heat_map(image, one.token_map(1)[: cells[0], : cells[1]]) for one in looking],
    [one.name for one in looking],
)

# %% [markdown]
# The other direction: which token each cell of the image attends to most, in the last block.

# %%
back = next(one for one in reversed(maps) if one.name.endswith("image_to_tokens"))
side = model.canvas // model.patch
to_click = back.weights.mean(axis=0)[:, len(inspect.attention.OUTPUT_TOKENS)].reshape(side, side)
seen = to_click[: cells[0], : cells[1]]
inspect.strip([inspect.draw_heat_map(image, seen)], ["attention to the click"])

# %%
assert np.isfinite(to_click).all() and len(looking) == 3

# %% [markdown]
# Next: `02_click` refines a mask by clicks, `03_everything` segments a whole image.
