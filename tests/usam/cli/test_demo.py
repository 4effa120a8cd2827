"""`usam demo`: an object followed in a file without a screen, and in the browser by a page of this machine alone."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import usam
from tests.e2e.chromium import CHROMIUM, DRIVER, FLAGS, needs_chromium, wait_for
from tests.factories import png
from tests.usam.small_sam2 import remembering, seeing, set_object_bias
from tests.usam.test_videos import moving_square, write_video
from usam.cli.demo_page import MOST_PAGES, PAGES, Click, Streams, mask_picture, server_of
from usam.cli.doubt_picture import LEGEND_HEIGHT, PLOT_HEIGHT, draw_doubt, share_of
from usam.cli.main import app
from usam.errors import ImageError
from usam.predictor.tracking import TrackedFrame
from usam.videos import Video

NOTHING = "\N{EN DASH}"


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["demo", *map(str, words)])


@pytest.fixture(scope="module")
def nano() -> Any:
    return remembering()


@pytest.fixture
def loaded(nano: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is loaded once, and encodes each frame once."""
    monkeypatch.setattr("usam.predictor.load.load", lambda *_: nano)


@pytest.mark.usefixtures("loaded")
def test_a_file_is_followed_and_its_doubt_written(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4")
    out = tmp_path / "doubt.mp4"
    done = run(video, "--point", "26,46", "--out", out, "--model", "nano-s")
    assert done.exit_code == 0, done.output
    assert "found on 12 of 12 frames" in done.stdout
    assert "look at these first: " in done.stdout
    written = Video(out)
    assert (written.width, written.height, written.count) == (96, 96 + PLOT_HEIGHT + LEGEND_HEIGHT, 12)
    told = json.loads(run(video, "--box", "8,28,44,64", "--json", "--seconds", "0.5", "--model", "nano-s").stdout)
    assert [frame["frame"] for frame in told["frames"]] == [0, 1, 2, 3, 4]
    assert told["frames"][0]["found"]
    assert {"task_gap", "prompt_gap", "model_gap"} <= told["frames"][0]["scores"].keys()


@pytest.mark.usefixtures("loaded")
def test_a_later_click_corrects(tmp_path: Path) -> None:
    """A click beside the square takes it away again from the frame at 0.5 s on."""
    video = write_video(tmp_path / "a.mp4")
    words = ("--point", "26,46", "--json", "--model", "nano-s")
    without = json.loads(run(video, *words).stdout)["frames"]
    corrected = json.loads(run(video, *words, "--correct", "0.5:80,80,0", "--correct", "0.3:36,46").stdout)["frames"]
    same = [one == other for one, other in zip(without, corrected, strict=True)]
    assert same[:3] == [True] * 3
    assert not same[3]
    assert all(frame["found"] and frame["area_px"] > 500 for frame in corrected), "not next to nothing"


@pytest.fixture(scope="module")
def small_sam2() -> Any:
    return seeing()


def test_a_sam_2_checkpoint_follows_by_its_memory(
    tmp_path: Path, small_sam2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usam.predictor.load.load", lambda *_: small_sam2)
    monkeypatch.setattr("usam.predictor.tracking.MaskTracker.begin", lambda *_: pytest.fail("by the mask before"))
    video, out = write_video(tmp_path / "a.mp4"), tmp_path / "doubt.mp4"
    words = (video, "--point", "26,46", "--correct", "0.4:60,60,0", "--model", "sam2.1_hiera_tiny", "--seconds", "0.6")
    told = json.loads(run(*words, "--json").stdout)["frames"]
    assert [frame["out_of_sight"] for frame in told] == [False] * 6
    assert {"task_gap", "prompt_gap", "model_gap"} <= told[5]["scores"].keys()
    set_object_bias(-5.0, small_sam2.model)
    done = run(*words, "--out", out)
    set_object_bias(5.0, small_sam2.model)
    assert done.exit_code == 0, done.output
    assert "found on 0 of 6 frames, out of sight on 6" in done.stdout
    assert Video(out).count == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --point x,y"),
        (("--point", "500,10"), "500"),
        (("--point", "26,46", "--start", "9"), "start earlier"),
        (("--point", "26,46", "--correct", "3,4"), "--correct seconds:x,y"),
        (("--point", "26,46", "--correct", "0.5:3,400"), "400"),
        (("--point", "26,46", "--correct", "7:3,4"), "a correction between 0.00 and 1.10 s, got one at 7 s"),
    ],
)
def test_bad_input_is_a_sentence_and_writes_nothing(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = run(write_video(tmp_path / "a.mp4"), *words, "--out", tmp_path / "b.mp4", "--model", "nano-s")
    assert done.exit_code == 2
    assert said in done.output
    assert not (tmp_path / "b.mp4").exists()


def test_neither_a_video_nor_a_picture_is_written_over(tmp_path: Path) -> None:
    video, picture = write_video(tmp_path / "a.mp4"), tmp_path / "a.png"
    picture.write_bytes(png(moving_square(0)))
    before = video.read_bytes(), picture.read_bytes()
    told = run(video, "--point", "26,46", "--out", video, "--model", "nano-s")
    told_too = CliRunner().invoke(app, ["predict", str(picture), "--point", "26,46", "--out", str(picture)])
    for done in (told, told_too):
        assert done.exit_code == 2
        assert "give --out another name" in done.stderr
    assert (video.read_bytes(), picture.read_bytes()) == before


def test_the_picture_shows_what_is_known_and_says_when_it_is_not_found() -> None:
    image = moving_square(0)
    mask = np.zeros((96, 96), bool)
    mask[30:62, 10:42] = True
    seen = TrackedFrame(mask, 0.8, {"task_gap": 0.25, "model_gap": -0.1})
    lost = TrackedFrame(np.zeros_like(mask), 0.0, is_found=False)
    drawn = draw_doubt(image, [seen, seen], 4)
    assert drawn.shape == (96 + PLOT_HEIGHT + LEGEND_HEIGHT, 96, 3)
    assert (drawn[40, 20] != image[40, 20]).any()
    assert (share_of("iou", seen), share_of("task_gap", seen), share_of("model_gap", seen)) == (0.8, 0.5, 0.0)
    assert share_of("prompt_gap", seen) is None
    assert share_of("iou", lost) is None
    hidden = TrackedFrame(np.zeros_like(mask), 0.0, is_found=False, visibility=0.2)
    assert (draw_doubt(image, [seen, lost], 4)[:60] != image[:60]).any(), "the words"
    assert (draw_doubt(image, [seen, lost], 4)[:60] != draw_doubt(image, [seen, hidden], 4)[:60]).any(), "other words"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = server_of(usam.load("nano-s"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def ask(address: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
    request = urllib.request.Request(address, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_the_page_follows_what_is_clicked(address: str) -> None:
    status, content, _ = ask(f"{address}/frame", png(moving_square(0)))
    assert (status, json.loads(content)["error"]) == (422, "expected an object to follow, got none; call begin first")
    seen = json.loads(ask(f"{address}/frame?x=0.27&y=0.48", png(moving_square(0)))[1])
    assert seen["found"]
    assert seen["mask"].startswith("data:image/png;base64,")
    again = json.loads(ask(f"{address}/frame", png(moving_square(1)))[1])
    assert again["found"]
    assert again["area_px"] == pytest.approx(seen["area_px"], rel=0.4)
    corrected = json.loads(ask(f"{address}/frame?x=0.9&y=0.9&label=0", png(moving_square(2)))[1])
    assert corrected["found"]
    for body, query, said in ((b"no picture", "", "got"), (png(moving_square(0)), "?x=7&y=0", "a point x, y in 0..1")):
        status, content, _ = ask(f"{address}/frame{query}", body)
        assert status == 422
        assert said in json.loads(content)["error"]


def test_the_page_follows_by_sam_2s_memory_and_says_out_of_sight(small_sam2: Any) -> None:
    stream = Streams(small_sam2)
    assert stream.answer(png(moving_square(0)), Click(0.27, 0.48))["found"]
    before = stream.answer(png(moving_square(1)), None)
    set_object_bias(-5.0, small_sam2.model)
    gone = stream.answer(png(moving_square(2)), None)
    set_object_bias(5.0, small_sam2.model)
    assert (gone["found"], gone["out_of_sight"], gone["area_px"]) == (False, True, 0)
    back = stream.answer(png(moving_square(3)), Click(0.9, 0.9, 0))
    assert (before["found"], back["found"], back["out_of_sight"]) == (True, True, False)
    assert stream.answer(png(moving_square(4)), Click(0.5, 0.5))["found"], "another object"
    with pytest.raises(ImageError, match="begin again after a change of size"):
        stream.answer(png(moving_square(4)[:64, :64]), None)


def test_each_page_follows_its_own_object(address: str) -> None:
    """Two pages followed one object between them: whoever clicked last had it, in frames of another size none did."""
    one, two = moving_square(0), np.ascontiguousarray(moving_square(0)[:80])
    clicked = [json.loads(ask(f"{address}/frame?page={n}&x=0.27&y=0.48", png(a))[1]) for n, a in ((1, one), (2, two))]
    assert all(seen["found"] for seen in clicked)
    for page, frame in ((1, one), (2, two)):
        status, content, _ = ask(f"{address}/frame?page={page}", png(frame))
        assert status == 200, content
    status, content, _ = ask(f"{address}/frame?page=1", png(two))
    assert status == 422
    assert "begin again after a change of size" in json.loads(content)["error"]
    assert ask(f"{address}/frame?page=3", png(one))[0] == 422
    for page in range(MOST_PAGES):
        ask(f"{address}/frame?page=more-{page}", png(one))
    assert "begin first" in json.loads(ask(f"{address}/frame?page=2", png(two))[1])["error"], "forgotten"


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("?x=nan&y=0.5", b"x"),
        ("?x=0.5", b"x"),
        ("?x=0.5&y=1e400", b"x"),
        ("?page=" + "a" * 5000, b"{}"),
        ("?page=%00%ff", b"\xff\xd8\xff"),
        ("?x=0.5&y=0.5", b"\x89PNG\r\n\x1a\n" + b"\0" * 50),
    ],
)
def test_no_frame_ends_in_anything_but_a_sentence(address: str, query: str, body: bytes) -> None:
    status, content, _ = ask(f"{address}/frame{query}", body)
    assert status == 422
    assert json.loads(content)["error"].startswith("expected ")


def test_an_error_of_the_model_is_told_and_a_silent_connection_ended(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was cut without an answer; one that sent less than it said was waited for without end."""

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr("usam.predictor.tracking.MaskTracker.begin", fail)
    status, content, _ = ask(f"{address}/frame?x=0.5&y=0.5", png(moving_square(0)))
    assert (status, json.loads(content)["error"]) == (
        500,
        "an error inside usam on this frame, RuntimeError: no memory",
    )
    monkeypatch.setattr("usam.cli.demo_page.PageHandler.timeout", 0.2)
    host, _, port = address.rpartition("/")[2].partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"POST /frame HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 99\r\n\r\nx".encode())
        assert connection.recv(100) == b""


def test_the_page_is_of_this_machine_under_a_strict_policy(address: str) -> None:
    for path in PAGES:
        status, content, headers = ask(address + path)
        assert status == 200
        assert b"http" not in content, "nothing is loaded from elsewhere"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert ask(f"{address}/other")[0] == 404
    assert ask(address, Host="evil.example")[0] == 404
    assert ask(f"{address}/frame", b"x", Origin="http://evil.example")[0] == 400
    assert ask(f"{address}/frame", b"")[0] == 400


def test_a_mask_is_a_clear_picture_with_a_tint() -> None:
    assert mask_picture(np.zeros((4, 4), bool)) != mask_picture(np.ones((4, 4), bool))


@pytest.mark.e2e
@pytest.mark.timeout(200)
@needs_chromium
def test_a_webcam_in_a_real_browser(address: str, tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    for flag in [*FLAGS, *camera, f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    driver: Any = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.get(address)

        def text(name: str) -> str:
            return str(driver.find_element("id", name).text)

        driver.find_element("id", "camera").click()
        wait_for(lambda: "Click the object" in text("say"), 30, "the webcam's picture")
        driver.find_element("id", "stage").click()
        wait_for(lambda: text("iou") not in ("", NOTHING), 60, "a predicted IoU")
        drawn = "const c = document.getElementById('plot'); return c.getContext('2d').getImageData(0,0,c.width,c.height).data.some(v => v)"  # noqa: E501
        assert driver.execute_script(drawn), "the plot"
        wait_for(lambda: text("rate") not in ("", NOTHING), 30, "the rate")
        stage = driver.find_element("id", "stage")
        ActionChains(driver).key_down(Keys.SHIFT).click(stage).key_up(Keys.SHIFT).perform()
        asked = "return performance.getEntriesByType('resource').some(entry => entry.name.endsWith('&label=1'))"
        wait_for(lambda: driver.execute_script(asked), 30, "a click that adds to the object")
        wait_for(lambda: text("say").startswith("Following. Shift-click adds"), 30, "the object is followed on")
    finally:
        driver.quit()
