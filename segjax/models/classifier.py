"""A vision transformer that names pictures: MAE's encoder and a linear head, trained whole or on frozen features.

MAE, appendix A.1: fine-tuning trains all of it, the linear probe the head alone.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.family import Family, describe_vit
from segjax.models.layers import Linear
from segjax.models.mae import MaeEncoder, xavier
from segjax.models.sizes import sized
from segjax.models.vit import check_canvas
from segjax.ops.pixels import normalize

POOLS = ("token", "mean")
_STANDARD = 1e-6  # added to the variance of a frozen encoder's features


class Classifier(nn.Module):
    """RGB [B, canvas, canvas, 3] of values 0..255 -> logits float32 [B, classes]. Sizes are made by `build_classifier`.

    Attributes:
      canvas: side in pixels of the square pictures it takes. patch: side of a patch in pixels; divides the canvas.
      width, depth, heads, drop_path, remat, scan, attention: the encoder (see `ViT`).
      classes: how many it tells apart.
      pool: features are the class token behind the final norm ("token"), or the mean of the patches' tokens without
        that norm but with one of its own ("mean").
      head_std: standard deviation of the head's first weights; the paper's are 2e-5 in fine-tuning and .01 in a probe.
      frozen: the encoder lies in "constants", where no gradient, decay or average reaches it, and beside it the mean
        and the variance of its features, by which these are standardised: the paper's batch norm without affine part.
      epsilon: of every LayerNorm.
      dtype: of the computation; parameters, norms' statistics, softmax, features and logits stay float32.
    """

    canvas: int
    patch: int
    width: int
    depth: int
    heads: int
    classes: int = 1000
    pool: str = "token"
    head_std: float = 2e-5
    frozen: bool = False
    epsilon: float = 1e-6
    drop_path: float = 0.0
    remat: str = "none"
    scan: bool = False
    attention: str = "xla"
    dtype: jnp.dtype = jnp.float32

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the patches."""
        return (self.canvas // self.patch,) * 2

    def setup(self) -> None:
        """Encoder and head. Raises ValueError for an unknown pool, or a canvas that the patch does not divide."""
        if self.pool not in POOLS:
            raise ValueError(f"pool {self.pool!r} is unknown; choose one of {', '.join(POOLS)}")
        check_canvas(self.canvas, self.patch)
        same = dict(epsilon=self.epsilon, dtype=self.dtype)
        trunk = same | dict(
            depth=self.depth, heads=self.heads, drop_path=self.drop_path, kernel_init=xavier
        )
        trunk |= dict(remat=self.remat, scan=self.scan, impl=self.attention)
        options = same | dict(
            trunk=trunk, width=self.width, patch=self.patch, learned_positions=True, pool=self.pool
        )
        self.head = Linear(self.classes, kernel_init=nn.initializers.normal(self.head_std))
        if not self.frozen:
            self.encoder = MaeEncoder(**options)
            return
        apart = MaeEncoder(**options, parent=None)
        image = jnp.zeros((1, self.canvas, self.canvas, 3))
        arrays = self.variable(
            "constants", "encoder", lambda: apart.init(self.make_rng("params"), image)["params"]
        )
        self.statistics = self.variable(
            "constants",
            "statistics",
            lambda: {"mean": jnp.zeros(self.width), "variance": jnp.ones(self.width)},
        )
        self.encoder = lambda images, train: apart.apply({"params": arrays.value}, images)

    def features(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """RGB [B, canvas, canvas, 3] of values 0..255 -> pooled float32 [B, width]; a frozen encoder's as they are."""
        if images.shape[1:] != (self.canvas, self.canvas, 3):
            raise ValueError(
                f"images are {images.shape}; this classifier takes RGB [B, {self.canvas}, {self.canvas}, 3]: resize "
                f"them, or build it with another canvas (a multiple of the patch, {self.patch})"
            )
        return self.encoder(normalize(images), train=train).astype(jnp.float32)

    def classify(self, features: jax.Array) -> jax.Array:
        """Features [B, width] -> logits float32 [B, classes]."""
        if self.frozen:
            mean, variance = (self.statistics.value[name] for name in ("mean", "variance"))
            features = (features - mean) * jax.lax.rsqrt(variance + _STANDARD)
        return self.head(features)

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """The logits of pictures; in training with drop_path the rng "drop_path" is needed."""
        return self.classify(self.features(images, train=train))


SIZES = {
    # The encoders of mae_vit_b, mae_vit_l and mae_vit_h.
    "vit_b": dict(canvas=224, patch=16, width=768, depth=12, heads=12),
    "vit_l": dict(canvas=224, patch=16, width=1024, depth=24, heads=16),
    "vit_h": dict(canvas=224, patch=14, width=1280, depth=32, heads=16),
    # Ours: those of mae_tiny and mae_debug, and the five shapes of the synthetic scenes.
    "vit_tiny": dict(canvas=128, patch=16, width=128, depth=4, heads=4, classes=5),
    "vit_debug": dict(canvas=64, patch=16, width=32, depth=2, heads=2, classes=5),
}


def build_classifier(name: str, **overrides: Any) -> Classifier:
    """A classifier by name, with any attribute of `Classifier` replaced; `dtype` may be a string.

    Raises:
      ValueError: unknown size or attribute, naming the nearest ones.
    """
    return sized(Classifier, SIZES, name, overrides)


def init_classifier(model: Classifier, key: jax.Array) -> dict[str, Any]:
    """Fresh variables {"params", "constants"}; traceable, so `jax.eval_shape` gives the shapes alone."""
    return {"constants": {}} | model.init(key, jnp.zeros((1, model.canvas, model.canvas, 3)))


def refuse_canvas(
    variables: Mapping[str, Any], stored: Classifier, model: Classifier
) -> Mapping[str, Any]:
    """Raises ValueError: a classifier's positions were trained together with the rest."""
    del variables, stored, model
    raise ValueError(
        "a classifier stays on the canvas that it was trained for; config.init_from='mae:PATH' "
        "brings a MAE's encoder to a classifier of any canvas"
    )


FAMILY = Family(
    title="ViT",
    module=Classifier,
    sizes=SIZES,
    build=build_classifier,
    init=init_classifier,
    task="classification",
    name_tables=("segjax.weights.tables.vit:VIT",),
    usage="`segjax eval` measures a classifier",
    describe_encoder=describe_vit,
    encoder=lambda model, variables: variables["constants" if model.frozen else "params"][
        "encoder"
    ],
    fit_canvas=refuse_canvas,
    recognize="segjax.inference.recognize:recognize_vit",
)
