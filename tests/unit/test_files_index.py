"""The index of stored files: which ones expire or are evicted, and in which order, for every history."""

import math

from hypothesis import given
from hypothesis import strategies as st

from files.index import FileIndex
from files.storage import StoredFile

FILES = st.lists(st.builds(StoredFile, st.sampled_from("abcdefgh"), st.integers(0, 100), st.floats(0, 1000)))


def filled(history):
    index = FileIndex()
    for file in history:
        index.add(file)
    return index


def last_of_each(history):
    """The files that remain, ordered by the last time each was stored."""
    left = {}
    for file in history:
        left.pop(file.name, None)
        left[file.name] = file
    return list(left.values())


@given(FILES, st.lists(st.sampled_from("abcdefgh")))
def test_the_size_is_the_sum_of_the_remaining_files(history, removed):
    index = filled(history)
    for name in removed:
        index.remove(name)

    left = [file for file in last_of_each(history) if file.name not in removed]
    assert (len(left), sum(file.size for file in left)) == (len(index), index.size)


@given(FILES, st.integers(0, 800))
def test_excess_is_the_fewest_oldest_files_whose_removal_fits_the_budget(history, budget):
    left = last_of_each(history)
    shortest = next(n for n in range(len(left) + 1) if sum(file.size for file in left[n:]) <= budget)

    assert [file.name for file in left[:shortest]] == filled(history).excess(budget, most=100)


@given(FILES, st.integers(0, 800), st.integers(1, 3))
def test_excess_in_small_batches_names_the_same_files(history, budget, most):
    index = filled(history)
    expected = index.excess(budget, most=100)
    gone = []
    while batch := index.excess(budget, most=most):
        assert len(batch) <= most
        gone += batch
        for name in batch:
            index.remove(name)

    assert expected == gone


@given(FILES, st.floats(0, 1000))
def test_expired_names_the_files_as_old_as_the_date_or_older(history, date):
    index = FileIndex()
    index.replace(last_of_each(history), since=2000)

    due = {file.name for file in last_of_each(history) if file.modified <= date}
    assert due == set(index.expired(date, most=100))


@given(FILES, FILES, st.floats(0, 1000))
def test_replace_keeps_files_stored_since_the_listing_began(history, listing, since):
    index = filled(history)
    index.replace(last_of_each(listing), since=since)

    meanwhile = [file for file in last_of_each(history) if file.modified >= since]
    expected = last_of_each([*sorted(last_of_each(listing), key=lambda file: file.modified), *meanwhile])
    assert [file.name for file in expected] == index.expired(math.inf, most=len(index))
    assert sum(file.size for file in expected) == index.size
