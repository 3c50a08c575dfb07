"""What a MAE has learned: a linear classifier on its frozen features, and the vote of nearest neighbours.

    segjax train --config=experiments/mae/quickstart.py --workdir=runs/mae
    segjax train --config=experiments/mae/probe.py --workdir=runs/probe                          # from runs/mae
    segjax train --config=experiments/mae/probe.py --workdir=runs/control --config.init_from=""  # a random encoder

    segjax train --config=experiments/mae/probe.py:digits --workdir=runs/probe_digits            # from runs/digits

    segjax train --config=experiments/mae/probe.py:imagenet_b --workdir=runs/probe_b --config.init_from=mae:FILE.pth

The default names the one shape of each synthetic scene, of five; digits those of tools/digit_folders.py.
imagenet_b, imagenet_l and imagenet_h are the paper's recipes (appendix A.1), for accelerators; they have not been run
here.
"""

import ml_collections

from segjax.tasks.classification.config import (
    apply_imagenet,
    apply_small_data,
    as_variant,
    classification_config,
    probe,
)

IMAGENET = ("imagenet_b", "imagenet_l", "imagenet_h")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = classification_config()
    config.init_from = "mae:runs/mae"
    if variant in IMAGENET:
        probe(config, variant[-1])
        apply_imagenet(config)
        return config
    probe(config, "b")
    config.model = ml_collections.ConfigDict(dict(name="vit_tiny", head_std=0.01, frozen=True))
    config.update(total_steps=1000, batch_size=64, log_every=100)
    config.optimizer.update(name="adamw", base_lr=0.0, peak_lr=3e-3, warmup_steps=50)
    apply_small_data(config, digits="data/digits" if variant == "digits" else "")
    return as_variant(config, variant, known=("digits", *IMAGENET))
