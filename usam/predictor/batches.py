"""Many images through one encoder: read, made ready and encoded ahead of whoever decodes prompts on them.

    for embedding in encode_ahead(predictor, [partial(read_image, path) for path in paths], batch=8):
        predictor.set_embedding(embedding)
        ious, scores = predictor.predict_scores(points, labels)

Three things go on at once: some threads read and scale images; one thread encodes them, batch by batch, on a stream of
its own where the device is a GPU; the caller decodes. Each stage waits for the next, so memory is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch import Tensor

from usam.errors import PromptError
from usam.predictor.embedding import ImageEmbedding
from usam.predictor.encoder import check_rgb
from usam.predictor.image import PatchedImagePredictor
from usam.predictor.patch import patch

Pixels = npt.NDArray[np.uint8]
ReadImage = Callable[[], Pixels]


def encode_ahead(
    predictor: PatchedImagePredictor, images: Iterable[ReadImage], *, batch: int = 4, threads: int = 4, ahead: int = 2
) -> Iterator[ImageEmbedding]:
    """The embedding of each image, in their order.

    Parameters
    ----------
    predictor
        Whose model and `encoder_dtype` are used; its own image stays as it is, so it may decode meanwhile.
    images
        Functions that give an image (H, W, 3) uint8 RGB; called in other threads.
    batch
        Images encoded at a time.
    threads
        Threads that read images and scale them to the model's input.
    ahead
        Batches that are encoded before the caller asks for them; images of as many more are read.

    Returns
    -------
    Embeddings without `stages`, equal to those of `set_image` up to rounding.

    Raises
    ------
    PromptError
        A number below 1.
    ImageError
        Something that is no image; and what `images` raise, where its turn comes.

    Examples
    --------
    >>> predictor = usam.load("nano-s", heads=None)
    >>> found = list(encode_ahead(predictor, [lambda: image, lambda: image, lambda: image], batch=2))
    >>> len(found), found[2].image_hw
    (3, (120, 160))
    """
    if min(batch, threads, ahead) < 1:
        raise PromptError("batch, threads and ahead from 1 on", f"{batch}, {threads} and {ahead}")
    return _encode_ahead(_Encoder(predictor), iter(images), batch, threads, ahead)


def _encode_ahead(
    encoder: _Encoder, images: Iterator[ReadImage], batch: int, threads: int, ahead: int
) -> Iterator[ImageEmbedding]:
    with ThreadPoolExecutor(threads, "read") as readers, ThreadPoolExecutor(1, "encode") as encoding:
        waiting: deque[Future[list[ImageEmbedding]]] = deque()
        try:
            while True:
                while len(waiting) <= ahead and (some := list(islice(images, batch))):
                    read = [readers.submit(encoder.ready, one) for one in some]
                    waiting.append(encoding.submit(encoder.encode, read))
                if not waiting:
                    return
                for embedding in waiting.popleft().result():
                    yield encoder.handed_over(embedding)
        finally:
            for one in waiting:
                one.cancel()
            readers.shutdown(wait=False, cancel_futures=True)


class _Encoder:
    """A predictor of its own on the caller's model: used by the encoding thread alone."""

    def __init__(self, predictor: PatchedImagePredictor) -> None:
        own: Any = patch(SAM2ImagePredictor(predictor.model))
        own.checkpoint_name, own.encoder_dtype = predictor.checkpoint_name, predictor.encoder_dtype
        self._own, self._scale = own, own._transforms
        own._transforms = self
        self._inputs: list[Tensor] = []
        cuda = own.device.type == "cuda"
        self._stream: Any = torch.cuda.Stream(own.device) if cuda else None  # type: ignore[no-untyped-call]

    def ready(self, read: ReadImage) -> tuple[Pixels, Tensor]:
        """An image, and the model's input (3, S, S) made of it; in a reader's thread."""
        image = read()
        check_rgb(image)
        scaled: Tensor = self._scale(image)
        return image, scaled.pin_memory() if self._stream is not None else scaled

    def forward_batch(self, images: Sequence[Pixels]) -> Tensor:
        """What SAM 2's predictor asks its transforms for: the inputs that are ready."""
        device = self._own.device
        return torch.stack([one.to(device, non_blocking=True) for one in self._inputs])

    def encode(self, read: Sequence[Future[tuple[Pixels, Tensor]]]) -> list[ImageEmbedding]:
        """Embeddings of a batch; in the encoding thread."""
        images, inputs = zip(*(one.result() for one in read), strict=True)
        own, self._inputs = self._own, list(inputs)
        with self._on_stream():
            own.set_image_batch(list(images))
            features = own._features
            found = [
                ImageEmbedding(
                    features["image_embed"][index : index + 1],
                    tuple(part[index : index + 1] for part in features["high_res_feats"]),
                    tuple(own._orig_hw[index]),
                    own.checkpoint_name or "",
                )
                for index in range(len(images))
            ]
        if self._stream is not None:
            self._stream.synchronize()
        own.reset_predictor()
        return found

    def handed_over(self, embedding: ImageEmbedding) -> ImageEmbedding:
        """The embedding, whose memory is not given to another batch while the caller's stream works on it."""
        if self._stream is not None:
            for part in (embedding.image_embed, *embedding.high_res):
                part.record_stream(torch.cuda.current_stream(part.device))
        return embedding

    def _on_stream(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()
