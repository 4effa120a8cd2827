"""Videos of a project: each object that somebody drew a box round on one frame is followed to the end, and the boxes go
to Label Studio as a prediction.

Annotations and drafts are only read. A task that cannot be used is set aside by name and the others go on; what was
followed already is not followed again, so that this may run at any time and any number of times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import ITEM_ERRORS, LabelStudioError, LabelStudioUnreachable, RegionError, TokenError, reason_of
from backend.image_fetcher import ImageFetcher
from backend.label_studio.client import LabelStudio
from backend.label_studio.records import Json, Prediction, Project
from backend.label_studio.video_config import VideoConfig, parse_video_config, takes_masks
from backend.label_studio.video_regions import (
    MOST_COUNTED,
    DrawnBox,
    FloatArray,
    drawn_boxes,
    file_frames,
    is_finished,
    to_region,
)
from backend.settings import Settings
from usam.checkpoints.registry import registry
from usam.errors import ImageError
from usam.predictor.box_tracks import BoxTrack, follow_boxes
from usam.videos import LONGEST_S, Video

if TYPE_CHECKING:
    from usam.predictor.image import PatchedImagePredictor

ENDING = ".followed"
VIDEO_BYTES = 512 * 1024 * 1024
VIDEO_FETCH_S = 120.0
MOST_FRAMES = 20_000
"""Frames that are followed at most in one task."""
LEAST_SHARE = 0.9
"""Share of the frames a file says it has, of which fewer mean that it is cut off."""
FAR = 2
"""How many times the frames of its file the editor may have counted to be believed."""
LEFT_OUT = "left_out"
"""In a region's meta: names of boxes that could not be followed, so that nobody tries again and again."""
_FIELDS = "id,data,annotations,drafts,predictions,result,was_cancelled,annotation,score,model_version,task"


@dataclass(frozen=True)
class FollowedTask:
    """A task whose boxes were followed: `score` is the least confidence on any frame, 0..1, and `look_at` names for
    each region the frames to look at first."""

    task: int
    regions: int
    frames: int
    key_frames: int
    score: float
    look_at: list[list[int]]


@dataclass
class Followed:
    """What became of a project's tasks, by number: `unchanged` were followed before, `waiting` have no box on a single
    frame, `finished` have boxes with several key frames alone. `left_out` says of a task whose other boxes were
    followed which could not be."""

    tasks: list[FollowedTask] = field(default_factory=list)
    unchanged: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    set_aside: dict[int, str] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoTask:
    """A task as it is followed: its boxes, and which predictions of ours it has."""

    id: int
    data: Json
    boxes: list[DrawnBox]
    is_finished: bool
    ours: list[Prediction]
    left_out: list[str] = field(default_factory=list)


class VideoFollower:
    """Follows the boxes of one project.

    Parameters
    ----------
    heads_version
        Version of the model's heads, empty where it has none.
    load
        Gives the model; called once, when there is something to follow.
    seconds
        How long each box is followed at most; None: to the end of the video.

    Raises
    ------
    LabelConfigError
        The project has no boxes on videos.
    """

    def __init__(
        self,
        client: LabelStudio,
        settings: Settings,
        project: Project,
        heads_version: str,
        load: Callable[[], PatchedImagePredictor],
        *,
        seconds: float | None = None,
    ) -> None:
        self._client, self._settings, self._project, self._load = client, settings, project, load
        self._config = parse_video_config(project.label_config)
        self.version = f"{settings.model}+{heads_version or 'no-heads'}{method_of(settings.model)}{ENDING}"
        """Of the predictions: checkpoint, heads, and that and how they were followed."""
        self._seconds = seconds
        self._model: PatchedImagePredictor | None = None

    def run(
        self, only: Sequence[int] = (), on_step: Callable[[int, int, str], None] = lambda done, total, what: None
    ) -> Followed:
        """Follow what waits to be followed in the project's tasks, or in `only` these. `on_step` is told how many of
        how many are done, and what became of the last.

        Raises `LabelStudioError` where Label Studio cannot be read or does not take a prediction.
        """
        done, numbers = Followed(), list(only) or [task.id for task in self._client.tasks(self._project.id)]
        todo = self._waiting(numbers, done)
        fetcher = ImageFetcher(
            self._settings.model_copy(
                update={
                    "fetch_bytes": max(self._settings.fetch_bytes, VIDEO_BYTES),
                    "fetch_seconds": max(self._settings.fetch_seconds, VIDEO_FETCH_S),
                }
            ),
            "a video",
        )
        try:
            for number, task in enumerate(todo, 1):
                on_step(number - 1, len(todo), "")
                on_step(number, len(todo), self._one(task, fetcher, done))
        finally:
            fetcher.close()
        return done

    @property
    def _predictor(self) -> PatchedImagePredictor:
        if self._model is None:
            self._model = self._load()
        return self._model

    def _waiting(self, numbers: Sequence[int], done: Followed) -> list[VideoTask]:
        """The tasks with boxes to follow; the others are noted in `done`."""
        todo, seen = [], set()
        for item in self._client.selected_tasks(self._project.id, numbers, _FIELDS):
            number = int(item["id"])
            seen.add(number)
            try:
                task = read_task(item, self._config)
            except ITEM_ERRORS as error:
                done.set_aside[number] = reason_of(error)
                continue
            if task.boxes:
                todo.append(task)
            elif task.left_out:
                done.set_aside[number] = _joined(task.left_out)
            else:
                (done.finished if task.is_finished else done.waiting).append(number)
        for number in numbers:
            if number not in seen:
                done.set_aside[number] = f"project {self._project.id} has no such task"
        return todo

    def _one(self, task: VideoTask, fetcher: ImageFetcher, done: Followed) -> str:
        """Follow one task's boxes, unless they were followed before. Returns what became of it, in a line."""
        try:
            address, rate = self._config.address(task.data), self._config.rate(task.data)
            wanted = {box.key(address, rate, self.version, self._seconds): box for box in task.boxes}
            left_out = list(task.left_out)
            if same := next((one for one in task.ours if _names_in(one) == set(wanted)), None):
                self._delete([one for one in task.ours if one is not same])
                done.unchanged.append(task.id)
                return f"task {task.id}: followed before"
            with tempfile.TemporaryDirectory(prefix="usam-video-") as folder:
                file = Path(folder) / "its file"
                file.write_bytes(fetcher.fetch_bytes(address, task.id))
                regions, told = self._follow(file, wanted, task.id, rate, left_out)
            prediction = {"task": task.id, "result": regions, "score": told.score, "model_version": self.version}
            self._client.import_predictions(self._project.id, [prediction])
            self._delete(task.ours)
        except (LabelStudioUnreachable, TokenError):
            raise
        except ITEM_ERRORS as error:
            done.set_aside[task.id] = reason_of(error)
            return f"task {task.id} is set aside: {done.set_aside[task.id]}"
        done.tasks.append(told)
        if left_out:
            done.left_out[task.id] = _joined(left_out)
        look = "; ".join(", ".join(map(str, frames)) for frames in told.look_at if frames)
        return (
            f"task {task.id}: {told.frames} frames, least sure {told.score:.2f}; look at frames {look or 'none'} first"
        )

    def _delete(self, predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            self._client.delete_prediction(prediction.id)

    def _follow(
        self, path: Path, boxes: dict[str, DrawnBox], task: int, rate: float, left_out: list[str]
    ) -> tuple[list[Json], FollowedTask]:
        """Regions of a video file's boxes, by their names; those that do not fit the video are added to `left_out`."""
        video = Video(path)
        count = _counted(boxes.values(), video, rate)
        shown = file_frames(count, rate, video.rate, video.count)
        size = (video.width, video.height)
        ends: dict[str, int] = {}
        begin: dict[str, tuple[int, FloatArray]] = {}
        for name, box in boxes.items():
            try:
                end = self._end(box, count, rate)
                begin[name] = shown[box.frame - 1], box.pixels(*size)
                ends[name] = end
            except RegionError as error:
                if len(boxes) == 1:
                    raise
                left_out.append(f"region {box.id}: {reason_of(error)}")
        if not ends:
            raise RegionError("a box that fits its video", _joined(left_out), "draw it again")
        first = min(number for number, _ in begin.values())
        last = max(shown[end - 1] for end in ends.values())
        shown_most = max(end - boxes[name].frame for name, end in ends.items())
        check_length(last, max(last - first, shown_most) + 1, video)
        frames = video.frames(first / video.rate, (last - first + 1) / video.rate)
        regions, tracks = [], follow_boxes(self._predictor, frames, list(begin.values()))
        for name, track in zip(begin, tracks, strict=True):
            box = boxes[name]
            track = resampled(track, shown[box.frame - 1 : ends[name]], box.frame)
            regions.append(to_region(track, box, self._config, size, count, rate, name))
        regions[0]["meta"][LEFT_OUT] = sorted(boxes.keys() - begin.keys())
        least = min(min(region["meta"]["confidence"]) for region in regions)
        followed = FollowedTask(
            task,
            len(regions),
            sum(len(region["meta"]["confidence"]) for region in regions),
            sum(len(region["value"]["sequence"]) for region in regions),
            least,
            [region["meta"]["look_at"] for region in regions],
        )
        return regions, followed

    def _end(self, box: DrawnBox, count: int, rate: float) -> int:
        """The last of the editor's frames that a box is followed to. Raises `RegionError` for a box behind the end."""
        if box.frame > count:
            raise RegionError(f"a box on one of {count} frames", f"frame {box.frame}", "draw it again")
        end = min(box.until or count, count)
        return end if self._seconds is None else min(end, box.frame + max(round(self._seconds * rate), 1))


def method_of(model: str) -> str:
    """How a checkpoint follows, as versions name it: what was followed in another way is followed again.

    >>> method_of("sam2.1_hiera_tiny"), method_of("nano-m")
    ('.memory', '')
    """
    known = registry().get(model)
    return ".memory" if known is not None and known.family.startswith("sam2") else ""


def read_task(item: Json, config: VideoConfig) -> VideoTask:
    """A task as Label Studio tells it. A draft of an annotation stands in for it."""
    drafts = _objects(item.get("drafts"))
    redrawn = [one["annotation"] for one in drafts if one.get("annotation") is not None]
    annotations = [
        one
        for one in _objects(item.get("annotations"))
        if not one.get("was_cancelled") and one.get("id") not in redrawn
    ]
    results = [one["result"] for one in (*annotations, *drafts) if isinstance(one.get("result"), list)]
    regions = [_objects(result) for result in results]
    boxes: dict[tuple[Any, ...], DrawnBox] = {}
    left_out: list[str] = []
    for result in regions:
        drawn, reasons = drawn_boxes(result, config)
        left_out += reasons
        for box in drawn:
            boxes.setdefault((box.frame, box.corners, box.labels), box)
    number = int(item["id"])
    kept = []
    for one in _objects(item.get("predictions")):
        with suppress(LabelStudioError):  # one without a number is none of ours
            kept.append(Prediction.read(one, number))
    ours = [one for one in kept if "+" in one.model_version and one.model_version.endswith(ENDING)]
    data = item.get("data")
    finished = any(is_finished(result, config) for result in regions)
    data = data if isinstance(data, dict) else {}
    return VideoTask(number, data, list(boxes.values()), finished, ours, left_out)


def _objects(value: Any) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _names_in(prediction: Prediction) -> set[str]:
    """The boxes that a prediction of ours is about: by its regions' ids, and those that could not be followed then."""
    names = {str(region.get("id")) for region in prediction.result}
    metas = [region["meta"] for region in prediction.result if isinstance(region.get("meta"), dict)]
    lists = [meta[LEFT_OUT] for meta in metas if isinstance(meta.get(LEFT_OUT), list)]
    return names.union(*([str(name) for name in one] for one in lists))


def _joined(reasons: Sequence[str]) -> str:
    return "; ".join(reasons)[:1000]


def _counted(boxes: Iterable[DrawnBox], video: Video, rate: float) -> int:
    """How many frames the editor counts of a video: what it said, unless that is far from what the file has. Raises
    `ImageError` for too many."""
    own = max(round(video.seconds * rate), 1)
    said = max(box.frames for box in boxes)
    count = said if said and said <= FAR * own + rate else own
    if count > MOST_COUNTED:
        raise ImageError(f"a video of at most {MOST_COUNTED:,} frames", f"{count:,}", "is its header whole?")
    return count


def serve_version(client: LabelStudio, project: Project, version: str) -> bool:
    """Let a project of videos alone show `version`, so that its tasks can be ordered by it; whether it does now."""
    if takes_masks(project.label_config) or not client.model_versions(project.id).get(version):
        return False
    if client.project(project.id).model_version != version:
        client.set_model_version(project.id, version)
    return True


def check_length(last: int, count: int, video: Video) -> None:
    """Raise `ImageError` where more than ten minutes would be decoded to frame `last`, or too many frames followed."""
    if (last + 1) / video.rate > LONGEST_S:
        raise ImageError(
            f"at most {LONGEST_S / 60:.0f} minutes of video up to the last frame to follow",
            f"{(last + 1) / video.rate / 60:.0f} minutes",
            "cut the video, or follow a part of it with --seconds",
        )
    if count > MOST_FRAMES:
        raise ImageError(f"at most {MOST_FRAMES:,} frames to follow", f"{count:,}", "follow a part with --seconds")


def resampled(track: BoxTrack, wanted: Sequence[int], first: int) -> BoxTrack:
    """A track in the editor's frames, `wanted` being the file's frame of each; a few that the file lacks in spite of
    what it says are as the last. Raises `ImageError` where it lacks more."""
    end = track.first + len(track) - 1
    if wanted[-1] > end and len(track) < LEAST_SHARE * (wanted[-1] - track.first + 1):
        raise ImageError(f"a video with frame {wanted[-1] + 1}", f"one that ends after {end + 1}", "is it whole?")
    return track.at([min(number, end) for number in wanted], first)
