"""ViT-H/14 pretrained as a masked autoencoder on ImageNet-1k, the paper's recipe (appendix A.1); for accelerators.

    segjax prepare images path/to/imagenet --out data/imagenet --short-side 256       # train/<class>/, val/<class>/
    segjax train --config=experiments/mae/imagenet_h.py --workdir=runs/mae-h
    segjax train --config=experiments/mae/imagenet_h.py:1600ep --workdir=runs/mae-h   # as long as the released weights

Or as TFDS has prepared it: --config.data.source=tfds:imagenet2012 --config.data.eval_split=validation (and
--config.data.tfds_dir=DIR). Those pictures have their original size, as the paper's had, and so have those that are
prepared without --short-side; they take twice the cores of the host, see docs/data.md.

Batches of 4096 for 800 epochs, rate 2.4e-3 after 40 epochs of warm-up, three quarters masked. Parameters and
optimizer are split over groups of 8 devices; with fewer set config.mesh.fsdp. Blocks keep their inputs alone (remat).
No run of it has been made by us: nothing is claimed for it.
"""

import ml_collections

from segjax.tasks.reconstruction.config import as_variant, imagenet_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = imagenet_config(epochs=1600 if variant == "1600ep" else 800)
    config.model = ml_collections.ConfigDict(
        dict(name="mae_vit_h", dtype="bfloat16", scan=True, remat="full")
    )
    config.mesh.fsdp = 8
    return as_variant(config, variant, known=("1600ep",))
