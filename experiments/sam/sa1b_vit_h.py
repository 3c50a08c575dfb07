"""SAM ViT-H on SA-1B, the paper's recipe (appendix A), from a ViT pretrained as a masked autoencoder; for pods.

    segjax prepare sa1b path/to/sa1b --out data/sa1b                     # tars as released, or unpacked
    segjax train --config=experiments/sam/sa1b_vit_h.py --workdir=runs/sam-h --config.init_from=mae:runs/mae-h
    python tools/compile_for.py --config=experiments/sam/sa1b_vit_h.py --topology=v5e-256       # does it fit?

90,000 steps of 256 pictures with up to 64 masks each, 11 rounds of prompts, no augmentation. The rate
falls to a tenth after 60,000 and 86,666.
Parameters and optimizer are split over groups of 16 devices. docs/scaling.md has what was compiled for which slice.
On TPUs try --config.model.attention=pallas. No run of it has been made by us: nothing is claimed for it.
"""

import ml_collections

from segjax.tasks.promptable.config import as_variant, sa1b_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = sa1b_config(
        "h", steps=90_000, batch_size=256, peak_lr=8e-4, layer_decay=0.8, drop_path=0.4, fsdp=16
    )
    return as_variant(config, variant)
