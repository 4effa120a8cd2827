"""Videos of a project: each object that somebody drew a box round on one frame is followed to the end, and the boxes go
to Label Studio as a prediction.

Annotations and drafts are only read. A task that cannot be used is set aside by name and the others go on; what was
followed already is not followed again, so that this may run at any time and any number of times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import ITEM_ERRORS, LabelStudioError, RegionError, reason_of
from backend.image_fetcher import ImageFetcher
from backend.label_studio.client import LabelStudio
from backend.label_studio.records import Json, Prediction, Project
from backend.label_studio.video_config import VideoConfig, parse_video_config, takes_masks
from backend.label_studio.video_regions import (
    MOST_COUNTED,
    DrawnBox,
    drawn_boxes,
    file_frames,
    is_finished,
    to_region,
)
from backend.settings import Settings
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
    frame, `finished` have boxes with several key frames alone."""

    tasks: list[FollowedTask] = field(default_factory=list)
    unchanged: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    set_aside: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoTask:
    """A task as it is followed: its boxes, and which predictions of ours it has."""

    id: int
    data: Json
    boxes: list[DrawnBox]
    is_finished: bool
    ours: list[Prediction]


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
        self.version = f"{settings.model}+{heads_version or 'no-heads'}{ENDING}"
        """Of the predictions: checkpoint, heads, and that they were followed."""
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
            same = [one for one in task.ours if {region.get("id") for region in one.result} == set(wanted)]
            if same:
                self._delete([one for one in task.ours if one is not same[0]])
                done.unchanged.append(task.id)
                return f"task {task.id}: followed before"
            with tempfile.TemporaryDirectory(prefix="usam-video-") as folder:
                file = Path(folder) / "its file"
                file.write_bytes(fetcher.fetch_bytes(address, task.id))
                regions, told = self._follow(file, wanted, task.id, rate)
        except LabelStudioError:
            raise
        except ITEM_ERRORS as error:
            done.set_aside[task.id] = reason_of(error)
            return f"task {task.id} is set aside: {done.set_aside[task.id]}"
        prediction = {"task": task.id, "result": regions, "score": told.score, "model_version": self.version}
        self._client.import_predictions(self._project.id, [prediction])
        self._delete(task.ours)
        done.tasks.append(told)
        look = "; ".join(", ".join(map(str, frames)) for frames in told.look_at if frames)
        return (
            f"task {task.id}: {told.frames} frames, least sure {told.score:.2f}; look at frames {look or 'none'} first"
        )

    def _delete(self, predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            self._client.delete_prediction(prediction.id)

    def _follow(
        self, path: Path, boxes: dict[str, DrawnBox], task: int, rate: float
    ) -> tuple[list[Json], FollowedTask]:
        """Regions of a video file's boxes, by their names."""
        video = Video(path)
        count = max(box.frames for box in boxes.values()) or max(round(video.seconds * rate), 1)
        if count > MOST_COUNTED:
            raise ImageError(f"a video of at most {MOST_COUNTED:,} frames", f"{count:,}", "is its header whole?")
        shown = file_frames(count, rate, video.rate, video.count)
        ends = {name: self._end(box, count, rate) for name, box in boxes.items()}
        first = min(shown[box.frame - 1] for box in boxes.values())
        last = max(shown[end - 1] for end in ends.values())
        check_length(last, last - first + 1, video)
        size = (video.width, video.height)
        begin = [(shown[box.frame - 1], box.pixels(*size)) for box in boxes.values()]
        frames = video.frames(first / video.rate, (last - first + 1) / video.rate)
        regions, tracks = [], follow_boxes(self._predictor, frames, begin)
        for (name, box), track in zip(boxes.items(), tracks, strict=True):
            wanted = shown[box.frame - 1 : ends[name]]
            track = resampled(track, wanted, box.frame)
            regions.append(to_region(track, box, self._config, size, count, rate, name))
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


def read_task(item: Json, config: VideoConfig) -> VideoTask:
    """A task as Label Studio tells it. A draft of an annotation stands in for it. Raises `RegionError` for a box that
    is none."""
    drafts = [one for one in item.get("drafts") or () if isinstance(one, dict)]
    redrawn = {one.get("annotation") for one in drafts}
    annotations = [
        one
        for one in item.get("annotations") or ()
        if isinstance(one, dict) and not one.get("was_cancelled") and one.get("id") not in redrawn
    ]
    results = [one["result"] for one in (*annotations, *drafts) if isinstance(one.get("result"), list)]
    regions = [[region for region in result if isinstance(region, dict)] for result in results]
    boxes: dict[tuple[Any, ...], DrawnBox] = {}
    for result in regions:
        for box in drawn_boxes(result, config):
            boxes.setdefault((box.frame, box.corners, box.labels), box)
    number = int(item["id"])
    kept = [Prediction.read(one, number) for one in item.get("predictions") or () if isinstance(one, dict)]
    ours = [one for one in kept if "+" in one.model_version and one.model_version.endswith(ENDING)]
    data = item.get("data")
    finished = any(is_finished(result, config) for result in regions)
    return VideoTask(number, data if isinstance(data, dict) else {}, list(boxes.values()), finished, ours)


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
