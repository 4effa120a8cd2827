"""The learning page: the curve within its picture, bars that add up, labels known least first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.learning.kept_plan import CurvePoint, KeptPlan
from backend.web.dashboard.learning import bars_of, class_lines, learning_page, plot_of
from backend.web.dashboard.rendering import render_live
from backend.web.dashboard.versions import WorkLine
from tests.backend.web.dashboard.reading import Text

WORK = WorkLine("nano-m+abc", 12, 60.0, 10.0, 20.0, 10.0, 0.2, 14.0)
HOSTILE = "<img src=x onerror=alert(1)>"


def plan(values: tuple[float, ...] = (0.6, 0.7, 0.72)) -> KeptPlan:
    curve = tuple(CurvePoint(100 * k, value, value - 0.02, value + 0.02) for k, value in enumerate(values))
    gains = tuple(CurvePoint(more, 0.01, 0.0, 0.02) for more in (50, 100, 200))
    measured = ((0, values[0]), (50, values[0] + 0.01))
    return KeptPlan(0.0, 100, 30, "9 audit tasks", measured, curve, gains, "go on", "")


@pytest.mark.parametrize("values", [(0.6, 0.7, 0.72), (0.7, 0.7, 0.7), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)])
def test_a_curve_stays_in_its_picture(values: tuple[float, ...]) -> None:
    plot = plot_of(plan(values))
    for points in (plot.line, plot.band):
        for pair in points.split():
            x, y = map(float, pair.split(","))
            assert 44 <= x <= 560
            assert 0 <= y <= 224
    assert plot.now == pytest.approx((44 + 560) / 2)
    assert [tick.text for tick in plot.coming] == ["+50", "+100", "+200"]


def test_the_parts_of_a_bar_add_up_to_a_hundred() -> None:
    bars = bars_of(WORK)
    assert [bar.kind for bar in bars] == ["kept", "relabelled", "corrected", "deleted"]
    assert (bars[-1].start, bars[-1].width) == (90.0, 10.0)


def test_labels_known_least_come_first_and_what_is_not_known_says_so() -> None:
    figures = {"labels/a": 30.0, "precision/a": 0.9, "recall/a": 0.8, "labels/b": 5.0, "recall/b": 0.4}
    lines = class_lines(["a", "b", HOSTILE], figures)
    assert [line.name for line in lines] == [HOSTILE, "b", "a"]
    assert lines[1].precision is None
    page = learning_page(plan(), [WORK], None, ["a", "b", HOSTILE], figures, "abc")
    content, _ = render_live("learning.html", {}, page=page, project=3)
    text = Text(content)
    assert HOSTILE in text
    assert HOSTILE not in content
    assert "14 s an image" in text
    assert "+1.0 points" in text


def test_now_stands_at_the_version_that_people_see_now() -> None:
    earlier = replace(WORK, version="nano-m+ab")
    page = learning_page(None, [WORK, earlier], None, [], {}, "ab", "nano-m+ab.17")
    assert [one.is_served for one in page.work] == [False, True], "the newest that was worked on is no longer served"


def test_a_new_project_is_told_what_comes() -> None:
    content, _ = render_live("learning.html", {}, page=learning_page(None, [], None, [], {}, ""), project=3)
    assert "from 12 labels on 6 tasks on" in Text(content)
    assert "counted as people submit" in Text(content)
