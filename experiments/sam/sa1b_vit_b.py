"""SAM ViT-B on SA-1B, the paper's recipe (appendix A), from a ViT pretrained as a masked autoencoder; for pods.

    segjax prepare sa1b path/to/sa1b --out data/sa1b                     # tars as released, or unpacked
    segjax train --config=experiments/sam/sa1b_vit_b.py --workdir=runs/sam-b --config.init_from=mae:runs/mae-b
    python tools/compile_for.py --config=experiments/sam/sa1b_vit_b.py --topology=v5e-128       # does it fit?

180,000 steps of 128 pictures with up to 64 masks each, 11 rounds of prompts, no augmentation. The rate
falls to a tenth after two thirds and again near the end: the places that the paper names, for H, stretched.
Every device holds all parameters. docs/scaling.md has what was compiled for which slice.
On TPUs try --config.model.attention=pallas. No run of it has been made by us: nothing is claimed for it.
"""

import ml_collections

from segjax.tasks.promptable.config import as_variant, sa1b_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = sa1b_config(
        "b", steps=180_000, batch_size=128, peak_lr=8e-4, layer_decay=0.6, drop_path=0.6, fsdp=1
    )
    return as_variant(config, variant)
