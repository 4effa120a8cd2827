"""The images of an annotated task, from Label Studio to samples and examples."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from backend.errors import ITEM_ERRORS, FetchError, LabelConfigError, reason_of
from backend.image_decoding import decode_image
from backend.label_studio.config import LabelConfig, parse_config
from backend.label_studio.records import Annotation
from backend.label_studio.shapes import drawn_masks, masks_on
from backend.learning.examples import make_examples
from backend.learning.samples import AnnotatedImage
from backend.resources import Resources
from backend.store.records import ExampleRow, KnownTask, SampleRow

if TYPE_CHECKING:
    from backend.pool.kept_objects import KeptObjects
    from usam.predictor.own_decoder import TunedDecoder
    from usam.training.decoder_tuning import TuningImage


class TaskImages:
    """The images of one task, each fetched and encoded once, when the first region on it is met.

    `try_again` says that one could not be had now, and may be later. Tokens are those of `decoder`, None for the
    checkpoint's.
    """

    def __init__(
        self, resources: Resources, label_config: str, task: KnownTask, decoder: TunedDecoder | None = None
    ) -> None:
        self.try_again = False
        self._resources, self._label_config, self._task, self._decoder = resources, label_config, task, decoder
        self._images: dict[str, AnnotatedImage | str] = {}

    def samples(self, annotation: Annotation) -> tuple[list[SampleRow], str]:
        """The samples of an annotation, and why regions that have none have none."""
        rows: list[SampleRow] = []
        drawn, reasons = drawn_masks(annotation.result)
        for name in dict.fromkeys(one.image for one in drawn):
            image = self._image(name)
            if isinstance(image, str):
                reasons.append(image)
                continue
            made, reason = image.samples(annotation, [one for one in drawn if one.image == name])
            rows += made
            reasons.append(reason)
        return rows, "; ".join(filter(None, reasons))[:2000]

    def tuning_images(self, annotation: Annotation) -> list[TuningImage]:
        """The images of an annotation with those of its objects whose pixels are known, to tune a decoder on; none of
        images that cannot be had."""
        drawn = [one for one in drawn_masks(annotation.result)[0] if not one.box_only]
        found = []
        for name in dict.fromkeys(one.image for one in drawn):
            image = self._image(name)
            if isinstance(image, AnnotatedImage):
                made = image.tuning_image([one for one in drawn if one.image == name], str(self._task.id))
                found += [made] if len(made.masks) else []
        return found

    def examples(self, annotation: Annotation, kept: KeptObjects | None) -> tuple[ExampleRow | None, str]:
        """What the objects of an annotation, and the model's own candidates, look like on the first image; and why that
        cannot be told, if it cannot."""
        settings = self._resources.settings
        if not annotation.result:  # nothing is wanted of what the pool has kept of it
            known = (kept.looks, kept.masks.logits(range(len(kept))) > 0) if kept is not None else None
            in_part = settings.marked_in_part
            return (make_examples(annotation, (), known, None, marked_in_part=in_part) if known else None), ""
        image = self._image("")
        if isinstance(image, str):
            return None, image
        drawn = masks_on(parse_config(self._label_config).image_name, annotation.result)
        try:
            return image.examples(annotation, drawn, kept, settings), ""
        except ITEM_ERRORS as error:
            return None, f"its objects teach no class: {reason_of(error)}"

    def _image(self, name: str) -> AnnotatedImage | str:
        """The image of the tag `name`, the first one for an empty name; or why it is not to be had."""
        try:
            view = parse_config(self._label_config).for_image(name)
        except LabelConfigError as error:
            return str(error)
        if view.image_name not in self._images:
            self._images[view.image_name] = self._fetched(view)
        return self._images[view.image_name]

    def _fetched(self, view: LabelConfig) -> AnnotatedImage | str:
        try:
            value = view.image_value(self._task.data)
            return self._annotated(self._resources.images.fetch_bytes(value, self._task.id))
        except (FetchError, LabelConfigError) as error:
            self.try_again = True
            return str(error)
        except ITEM_ERRORS as error:
            return reason_of(error)

    def _annotated(self, file: bytes) -> AnnotatedImage:
        resources, larger = self._resources, self._resources.larger
        model = resources.model_with(self._decoder)
        with_larger = (larger, resources.embedding(larger, file)) if larger is not None else None
        pixels = partial(decode_image, file, resources.settings)
        return AnnotatedImage(model, resources.embedding(model, file), with_larger, pixels)
