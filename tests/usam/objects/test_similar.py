"""Find all like this."""

from __future__ import annotations

import numpy as np
import pytest

from tests.usam.objects.blobs import blobs
from usam.errors import TrainingError
from usam.objects.similar import find_similar


def test_the_most_alike_of_a_pool_are_of_the_example_s_class() -> None:
    pool = blobs({"cat": 40, "dog": 40, "": 100})
    example = blobs({"cat": 1, "dog": 1, "": 1}, seed=7)
    cat = [index for index, given in enumerate(example.labels) if given == ("cat",)]
    similar = find_similar(example.features[cat], pool.features, most=20)
    assert np.mean([pool.labels[row] == ("cat",) for row in similar.rows]) > 0.9
    assert (np.diff(similar.similarity) <= 0).all()


def test_no_image_fills_the_list() -> None:
    pool = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    few = find_similar(np.array([[1.0, 0.0]]), pool, images=["a", "a", "b", "b"], per_image=1, least=-2)
    assert few.rows.tolist()[0] in (0, 1)
    assert len(few.rows) == 2


def test_no_example_and_no_pool() -> None:
    with pytest.raises(TrainingError, match="mark an object"):
        find_similar(np.zeros((0, 2)), np.zeros((3, 2)))
    assert not len(find_similar(np.zeros((1, 2)), np.zeros((0, 2))).rows)
