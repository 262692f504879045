"""The neighbour index: the nearest row, and whose it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from unlearn_guard.classifiers.index import NeighbourIndex, search_others


def draw(n: int, seed: int, dimension: int = 8) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((n, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


FORGET, RETAIN, QUERIES = draw(9, 0), draw(11, 1), draw(5, 2)
LABELS = [f"p{number % 3}" for number in range(9)]


def check(index: NeighbourIndex) -> None:
    forget, retain, labels = index.search(QUERIES)
    np.testing.assert_allclose(forget, (QUERIES @ FORGET.T).max(axis=1), atol=1e-6)
    np.testing.assert_allclose(retain, (QUERIES @ RETAIN.T).max(axis=1), atol=1e-6)
    assert labels == [LABELS[row] for row in (QUERIES @ FORGET.T).argmax(axis=1)]


def test_nearest_of_each_side_and_its_label() -> None:
    check(NeighbourIndex.build(FORGET, RETAIN, LABELS))


def test_indexed_rows_find_themselves() -> None:
    forget, _, labels = NeighbourIndex.build(FORGET, RETAIN, LABELS).search(FORGET)
    np.testing.assert_allclose(forget, 1.0, atol=1e-6)
    assert labels == LABELS


def test_saved_index_answers_the_same(tmp_path: Path) -> None:
    NeighbourIndex.build(FORGET, RETAIN, LABELS).save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"index.faiss", "retain.faiss"}
    check(NeighbourIndex.load(tmp_path, LABELS))


def test_batch_does_not_change_a_result() -> None:
    index = NeighbourIndex.build(FORGET, RETAIN, LABELS)
    whole = index.search(QUERIES)
    for row in range(len(QUERIES)):
        alone = index.search(QUERIES[row : row + 1])
        assert [part[0] for part in alone] == [part[row] for part in whole]


@pytest.mark.parametrize("n", [3, 1030])
def test_others_leave_out_the_row_itself(n: int) -> None:
    pool = draw(n, 4)
    similarity = pool @ pool.T
    np.testing.assert_allclose(search_others(pool, pool, same=False), similarity.max(axis=1), atol=1e-6)
    np.fill_diagonal(similarity, -1.0)
    np.testing.assert_allclose(search_others(pool, pool, same=True), similarity.max(axis=1), atol=1e-6)


def test_others_of_an_empty_pool_are_opposite() -> None:
    assert search_others(QUERIES, np.zeros((0, 8), np.float32), same=False).tolist() == [-1.0] * 5
