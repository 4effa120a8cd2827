"""Two versions side by side: those that are named, else the one in use and another."""

from __future__ import annotations

from backend.web.dashboard.comparison import compared
from backend.web.dashboard.versions import BASE_NAME, VersionLine, VersionsPage, WorkLine

NEW = VersionLine("bbb", "bbb", 100.0, 80, 9, in_use=True, judgement=None, learnt="90 % of labels right")
OLD = VersionLine("aaa", "aaa", 50.0, 40, 5, in_use=False, judgement=None)
BASE = VersionLine("", BASE_NAME, 0.0, 0, 0, in_use=False, judgement=None)
WORK = WorkLine("nano-m+bbb", 12, 60.0, 10.0, 20.0, 10.0, 0.2, 14.0)


def test_the_one_in_use_stands_beside_the_newest_other_one() -> None:
    both = compared(VersionsPage((NEW, OLD, BASE), work=(WORK,)), {})
    assert both is not None
    assert (both.first, both.second) == (NEW, OLD)
    rows = {what: (one, two) for what, one, two in both.rows}
    assert rows["Learnt from"] == ("80 objects", "40 objects")
    assert rows["Of 100 masks shown: kept"] == ("60", "")
    assert rows["Time an image (median)"] == ("14 s", "")
    assert "Judged on" not in rows, "what is known of neither is left out"


def test_any_two_can_be_named_and_others_are_passed_over() -> None:
    page = VersionsPage((NEW, OLD, BASE))
    both = compared(page, {"a": "aaa", "b": BASE_NAME})
    assert both is not None
    assert (both.first, both.second) == (OLD, BASE)
    odd = compared(page, {"a": "../../etc", "b": "<b>"})
    assert odd is not None
    assert (odd.first, odd.second) == (NEW, OLD)
    assert compared(VersionsPage((BASE,)), {}) is None
    assert compared(VersionsPage(damage="x"), {}) is None
