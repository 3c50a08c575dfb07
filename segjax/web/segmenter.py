"""Models of the page: embeddings, decoding of steps, everything and names."""

import collections
import pathlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segjax.engine.model_hash import hash_weights
from segjax.inference.clip.clip import Clip
from segjax.inference.perception.labels import MaskLabeler
from segjax.inference.sam.automatic import SamAutomaticMaskGenerator
from segjax.inference.sam.embedding_cache import EmbeddingCache
from segjax.inference.sam.predictor import SamPredictor
from segjax.web.messages import Step

_IMAGES = 16  # embedded images in memory
_STEPS = 256  # decoded steps whose logits are kept


class Candidates:
    """Result of the last step.

    Attributes:
      masks: bool [M, H, W].
      scores: float32 [M], predicted IoU.
      best: index of the chosen mask.
    """

    def __init__(self, masks: np.ndarray, scores: np.ndarray, best: int) -> None:
        self.masks, self.scores, self.best = masks, scores, best


class PageModel:
    """A SAM, and perhaps a CLIP, with the embeddings of the images that people look at.

    The result of a prompt depends on the image and the steps alone, and on no earlier request.

    Args:
      predictor: the SAM.
      clip: for texts and names, or None.
      thresholds: recommended for segment-everything, see `read_saved_thresholds`.
      cache: folder of embeddings, the predictor's. None: images are not embedded ahead.
    """

    def __init__(
        self,
        predictor: SamPredictor,
        clip: Clip | None = None,
        thresholds: Mapping[str, float] | None = None,
        cache: pathlib.Path | None = None,
    ) -> None:
        self.predictor, self.clip = predictor, clip
        model, variables = predictor.model, predictor.variables
        self._cache = None if cache is None else EmbeddingCache(cache, model, variables)
        self.thresholds = dict(thresholds or {})
        self._embedded: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self._logits: collections.OrderedDict[Any, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.hash = hash_weights(predictor.variables)

    @property
    def takes_text(self) -> bool:
        """Whether texts can be prompts."""
        return bool(self.predictor.model.text_width) and self.predictor.clip is not None

    def embed(self, key: str, read: Callable[[], np.ndarray]) -> tuple[int, int]:
        """Embeds an image, unless it is in memory, and returns its (height, width).

        Args:
          key: id of the image and its content.
          read: returns uint8 [H, W, 3].
        """
        with self._lock:
            return self._embed(key, read).original_size

    def embed_ahead(self, read: Callable[[], np.ndarray]) -> None:
        """Embeds an image on disk, while other images are decoded."""
        if self._cache is not None:
            self._cache.embed([read()])

    def decode(
        self, key: str, read: Callable[[], np.ndarray], steps: tuple[Step, ...]
    ) -> Candidates:
        """Decodes the steps of a prompt. Steps before the last come from memory if they can.

        Raises:
          ValueError: a prompt outside of the image, or a text without a model for it.
        """
        with self._lock:
            image = self._embed(key, read)
            logits = None
            if len(steps) > 1:
                logits = self._find_logits(image, key, steps[:-1])
            candidates, low_res = self._run(image, steps[-1], logits)
            self._keep(key, steps, candidates, low_res)
            return candidates

    def _embed(self, key: str, read: Callable[[], np.ndarray]) -> Any:
        if key not in self._embedded:
            self.predictor.set_image(read())
            self._embedded[key] = self.predictor.images[0]
            while len(self._embedded) > _IMAGES:
                self._embedded.popitem(last=False)
        self._embedded.move_to_end(key)
        return self._embedded[key]

    def _find_logits(self, image: Any, key: str, steps: tuple[Step, ...]) -> np.ndarray:
        """Returns the logits of the chosen mask of the last step, decoding what is not kept."""
        if (key, steps) not in self._logits:
            before = self._find_logits(image, key, steps[:-1]) if len(steps) > 1 else None
            self._keep(key, steps, *self._run(image, steps[-1], before))
        self._logits.move_to_end((key, steps))
        return self._logits[key, steps]

    def _keep(
        self, key: str, steps: tuple[Step, ...], candidates: Candidates, low_res: np.ndarray
    ) -> None:
        self._logits[key, steps] = low_res[candidates.best][None]
        while len(self._logits) > _STEPS:
            self._logits.popitem(last=False)

    def _run(self, image: Any, step: Step, logits: np.ndarray | None) -> tuple[Candidates, Any]:
        """Decodes one step. The first one gives three masks, unless the prompt is unambiguous."""
        self.predictor.images = [image]
        # Prompts in pixels of the image
        points = np.array([point[:2] for point in step.points]) if step.points else None
        labels = np.array([point[2] for point in step.points]) if step.points else None
        masks, scores, low_res = self.predictor.predict(
            points,
            labels,
            None if step.box is None else np.array(step.box),
            logits,
            multimask_output=logits is None,
            text=step.text,
        )
        best = int(np.argmax(scores)) if step.choice is None else min(step.choice, len(masks) - 1)
        return Candidates(masks, scores, best), low_res

    def warm_up(self, key: str, read: Callable[[], np.ndarray]) -> None:
        """Compiles the programs of all prompts for one image, so that no click waits for them."""
        height, width = self.embed(key, read)
        middle = (width / 2, height / 2, 1)
        box = (0.0, 0.0, float(width), float(height))
        click, first = Step((middle,)), Step((), box)
        # The page begins with one click or a box, and adds clicks to the mask of that
        for steps in ((click,), (first,)):
            self.decode(key, read, steps)
            for count in (1, 2, 5):
                more = Step((middle,) * count, steps[0].box)
                self.decode(key, read, (*steps, more))

    def find_everything(
        self, image: np.ndarray, advance: Callable[[int, int], None]
    ) -> list[dict[str, Any]]:
        """Segments all objects of an image.

        Args:
          image: uint8 [H, W, 3].
          advance: called with the number of clicks that are done, and of all.

        Returns:
          Records of `SamAutomaticMaskGenerator`, the largest first.
        """
        names = {"pred_iou": "pred_iou_thresh", "stability": "stability_score_thresh"}
        options = {names[key]: value for key, value in self.thresholds.items()}
        generator = SamAutomaticMaskGenerator(
            self.predictor.model, self.predictor.variables, progress=advance, **options
        )
        return sorted(generator.generate(image), key=lambda record: -record["area"])

    def name_masks(
        self, image: np.ndarray, masks: list[np.ndarray], names: list[str]
    ) -> list[tuple[str | None, float]]:
        """Names masks by the CLIP.

        Returns:
          The name and its probability of each mask.

        Raises:
          ValueError: no CLIP is loaded, or names that it does not take.
        """
        if self.clip is None:
            raise ValueError("no CLIP is loaded; start the server with --clip")
        templates = "name" if self.clip.model.tokenizer == "captions" else "photo"
        with self._lock:
            labels = MaskLabeler(self.clip, names, templates=templates).label(image, masks)
        return list(zip(labels.names, (float(x) for x in labels.scores), strict=True))


def open_folder_cache(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder for the embeddings of a folder's images."""
    return folder / ".segjax" / "embeddings"
