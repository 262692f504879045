"""The neighbour index: the nearest row, and whose it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from unlearn_guard.classifiers import index as index_module
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


def test_neighbours_come_nearest_first_with_their_place_and_owner() -> None:
    index = NeighbourIndex.build(FORGET, RETAIN, LABELS)
    cosines = QUERIES[0] @ FORGET.T
    found = index.find_neighbours(QUERIES[0], 3)
    assert [(place, label) for place, label, _ in found] == [(row, LABELS[row]) for row in (-cosines).argsort()[:3]]
    np.testing.assert_allclose([cosine for *_, cosine in found], np.sort(cosines)[::-1][:3], atol=1e-6)
    assert len(index.find_neighbours(QUERIES[0], 99)) == len(FORGET)


def test_added_request_is_found() -> None:
    index = NeighbourIndex.build(FORGET[:6], RETAIN, LABELS[:6])
    index.add(FORGET[6:], "new")
    _, _, labels = index.search(FORGET)
    assert labels == [*LABELS[:6], "new", "new", "new"]


def test_removed_request_is_gone_and_the_rest_stays() -> None:
    index = NeighbourIndex.build(FORGET, RETAIN, list(LABELS))
    assert index.remove("p1") == 3
    kept = [row for row, label in enumerate(LABELS) if label != "p1"]
    forget, _, labels = index.search(QUERIES)
    np.testing.assert_allclose(forget, (QUERIES @ FORGET[kept].T).max(axis=1), atol=1e-6)
    assert labels == [LABELS[kept[place]] for place in (QUERIES @ FORGET[kept].T).argmax(axis=1)]
    assert index.remove("nobody") == 0


MANY, MANY_LABELS = draw(400, 5), [f"p{number % 4}" for number in range(400)]


@pytest.fixture(params=["flat", "inverted lists"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> NeighbourIndex:
    """An index of 400 rows that searches every list, so that its answers are exact."""
    monkeypatch.setattr(index_module, "_EXACT_LIMIT", 1000 if request.param == "flat" else 100)
    built = NeighbourIndex.build(MANY, RETAIN, list(MANY_LABELS))
    assert (built.probes > 0) == (request.param != "flat")
    if built.probes:
        built._forget.nprobe = built._forget.nlist
    return built


def nearest_of(rows: npt.NDArray[np.float32], labels: list[str], queries: npt.NDArray[np.float32]) -> list[str]:
    return [labels[place] for place in (queries @ rows.T).argmax(axis=1)]


def test_removed_label_is_never_found_again_and_others_stay(large: NeighbourIndex) -> None:
    kept = [row for row, label in enumerate(MANY_LABELS) if label != "p1"]
    assert large.remove("p1") == 100
    queries = np.concatenate([draw(60, 6), MANY])
    forget, retain, labels = large.search(queries)
    assert "p1" not in labels
    assert labels == nearest_of(MANY[kept], [MANY_LABELS[row] for row in kept], queries)
    np.testing.assert_allclose(forget, (queries @ MANY[kept].T).max(axis=1), atol=1e-5)
    np.testing.assert_allclose(retain, (queries @ RETAIN.T).max(axis=1), atol=1e-5)
    assert "p1" not in {label for _, label, _ in large.find_neighbours(MANY[1], 300)}
    assert large.remove("p1") == 0


def test_added_rows_are_found_beside_the_old_ones(large: NeighbourIndex) -> None:
    new = draw(30, 7)
    large.add(new, "new")
    queries = np.concatenate([new, MANY, draw(60, 6)])
    labels = large.search(queries)[2]
    assert labels == nearest_of(np.concatenate([MANY, new]), [*MANY_LABELS, *["new"] * 30], queries)


def test_rows_added_after_a_removal_are_whose_they_are(large: NeighbourIndex) -> None:
    large.remove("p1")
    large.add(MANY[:10], "new")
    assert set(large.search(MANY[:10])[2]) <= {"new", *MANY_LABELS} - {"p1"}
    assert large.search(MANY[1:2])[2] == ["new"]
    assert large.search(MANY[11:12])[2] != ["new"]


def test_nothing_is_found_after_the_last_request_went(large: NeighbourIndex) -> None:
    for label in sorted(set(MANY_LABELS)):
        large.remove(label)
    assert not set(large.search(QUERIES)[2]) & set(MANY_LABELS)
    assert large.find_neighbours(QUERIES[0], 3) == []
