"""This is imagenet_b.py, but ViT-L/16.

    # train/<class>/, val/<class>/
    segjax prepare images path/to/imagenet --out data/imagenet --short-side 256
    segjax train --config=experiments/mae/imagenet_l.py --workdir=runs/mae-l
    # as long as the released weights
    segjax train --config=experiments/mae/imagenet_l.py:1600ep --workdir=runs/mae-l

Where the devices cannot hold 4096 images, set config.microbatches, or config.model.remat=full. This
recipe has not been run, so no result is claimed.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import imagenet_b


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or its variant "1600ep"."""
    config = imagenet_b.get_config("1600ep" if variant == "1600ep" else "")
    config.model = dict(name="mae_vit_l", dtype="bfloat16", scan=True)
    return as_variant(config, variant, known=("1600ep",))
