"""transformers' ViTMAEForPreTraining with our weights; arrays are NumPy, channel-last."""

import numpy as np
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from segjax.weights.names import HUGGINGFACE
from segjax.weights.tables.mae import MAE

MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


class TransformersMae:
    """A float32 model of the same size, strictly loaded. attention: "eager" or "sdpa", the same
    numbers nearly.
    """

    def __init__(self, model, variables, attention="eager"):
        config = ViTMAEConfig(
            hidden_size=model.width,
            num_hidden_layers=model.depth,
            num_attention_heads=model.heads,
            intermediate_size=4 * model.width,
            image_size=model.canvas,
            patch_size=model.patch,
            decoder_hidden_size=model.decoder_width,
            decoder_num_hidden_layers=model.decoder_depth,
            decoder_num_attention_heads=model.decoder_heads,
            decoder_intermediate_size=4 * model.decoder_width,
            mask_ratio=model.mask_ratio,
            norm_pix_loss=model.norm_pix,
            layer_norm_eps=model.epsilon,
            attn_implementation=attention,
        )
        self.mae = ViTMAEForPreTraining(config).eval()
        state = MAE.to_published(variables, HUGGINGFACE, canvas=model.canvas)
        self.mae.load_state_dict(
            {key: torch.from_numpy(np.array(array)) for key, array in state.items()}, strict=True
        )

    @torch.no_grad()
    def answers(self, images: np.ndarray, noise: np.ndarray) -> dict[str, np.ndarray]:
        """images uint8 [B, S, S, 3], noise [B, L] -> loss, prediction, masked, and tokens
        in the order of the noise.
        """
        pixels = torch.from_numpy(((images - MEAN) / STD).astype(np.float32)).permute(0, 3, 1, 2)
        noise = torch.from_numpy(noise)
        out = self.mae(pixels, noise=noise)
        tokens = self.mae.vit(pixels, noise=noise).last_hidden_state
        answers = dict(loss=out.loss, prediction=out.logits, tokens=tokens, masked=out.mask)
        return {name: value.numpy() for name, value in answers.items()}
