"""This is imagenet_b.py, but ViT-H/14, sharded over groups of 8 devices (FSDP).

    # train/<class>/, val/<class>/
    segjax prepare images path/to/imagenet --out data/imagenet --short-side 256
    segjax train --config=experiments/mae/imagenet_h.py --workdir=runs/mae-h
    # as long as the released weights
    segjax train --config=experiments/mae/imagenet_h.py:1600ep --workdir=runs/mae-h

With fewer than 8 devices, set config.mesh.fsdp. Rematerialization keeps only the inputs of the
blocks. This recipe has not been run, so no result is claimed.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import imagenet_b


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or its variant "1600ep"."""
    config = imagenet_b.get_config("1600ep" if variant == "1600ep" else "")
    config.model = dict(name="mae_vit_h", dtype="bfloat16", scan=True, remat="full")
    config.mesh.fsdp = 8
    return as_variant(config, variant, known=("1600ep",))
