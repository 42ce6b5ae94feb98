import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.batches import collate, iter_batches, plan_batches
from qd_detr.gates.data.features import Features
from qd_detr.gates.errors import DataError, RequestError


def item(qid, clips, tokens):
    """A query whose features tell its qid and the row."""
    video = np.arange(clips * 3, dtype=np.float32).reshape(clips, 3) + 100 * qid
    audio = -np.arange(clips * 2, dtype=np.float32).reshape(clips, 2) - 100 * qid - 1
    text = np.arange(tokens * 2, dtype=np.float32).reshape(tokens, 2) + 1000 * qid + 1
    return Query(qid, "a dog barks", f"v{qid}", 10.0, 1), Features(video, audio, text)


class KnownReader:
    """Gives features from memory, and raises for one query."""

    def __init__(self, items, broken=None):
        self.features = {query.qid: features for query, features in items}
        self.broken = broken
        self.read_so_far = []

    def read(self, query):
        if query.qid == self.broken:
            raise DataError(f"query {query.qid} is broken")
        self.read_so_far.append(query.qid)
        return self.features[query.qid]


ITEMS = [item(1, 2, 3), item(2, 4, 1), item(3, 2, 2), item(4, 3, 2)]
QUERIES = [query for query, _ in ITEMS]


def test_batches_hold_equal_clip_counts_in_order_of_first_appearance():
    counts = [75, 60, 75, 75, 60, 8]
    assert plan_batches(counts, 2) == [[0, 2], [3], [1, 4], [5]]
    assert plan_batches(counts, 100) == [[0, 2, 3], [1, 4], [5]]


def test_mixed_batches_are_the_files_order_cut_in_chunks():
    assert plan_batches([75, 60, 75, 75, 60], 2, mixed_lengths=True) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_size_below_one_is_refused(batch_size):
    with pytest.raises(RequestError, match="batch_size"):
        plan_batches([1, 2], batch_size)


@given(st.lists(st.integers(1, 4), max_size=30), st.integers(1, 6), st.booleans())
def test_every_query_is_in_exactly_one_batch_of_at_most_the_size_asked(counts, batch_size, mixed_lengths):
    batches = plan_batches(counts, batch_size, mixed_lengths=mixed_lengths)
    assert sorted(position for batch in batches for position in batch) == list(range(len(counts)))
    assert all(1 <= len(batch) <= batch_size and batch == sorted(batch) for batch in batches)
    if not mixed_lengths:
        assert all(len({counts[position] for position in batch}) == 1 for batch in batches)
        assert len(batches) == sum(-(-counts.count(clips) // batch_size) for clips in set(counts))


def test_collate_pads_with_zeros_and_masks_what_is_real():
    batch = collate(ITEMS[:2])
    assert (batch["qid"], batch["vid"]) == ([1, 2], ["v1", "v2"])
    assert batch["src_vid"][0].tolist() == [[100, 101, 102], [103, 104, 105], [0, 0, 0], [0, 0, 0]]
    assert batch["src_aud"][0].tolist() == [[-101, -102], [-103, -104], [0, 0], [0, 0]]
    assert batch["src_txt"][1].tolist() == [[2001, 2002], [0, 0], [0, 0]]
    assert batch["src_vid_mask"].tolist() == batch["src_aud_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["src_txt_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    tensors = [value for key, value in batch.items() if key.startswith("src_")]
    assert len(tensors) == 6
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_collate_copies_so_that_a_batch_may_be_changed_in_place():
    query, features = item(5, 2, 2)
    collate([(query, features)])["src_vid"].zero_()
    assert features.video[0, 0] == 500


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        collate([])


def test_batches_come_in_the_order_of_the_plan_with_their_positions():
    found = list(iter_batches(QUERIES, KnownReader(ITEMS), [[0, 2], [3], [1]]))
    assert [positions for positions, _ in found] == [[0, 2], [3], [1]]
    assert [batch["qid"] for _, batch in found] == [[1, 3], [4], [2]]
    assert torch.equal(found[0][1]["src_vid"], collate([ITEMS[0], ITEMS[2]])["src_vid"])
    assert list(iter_batches(QUERIES, KnownReader(ITEMS), [])) == []


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_one_batch_and_no_more_is_read_ahead_and_closing_ends_the_thread():
    reader = KnownReader(ITEMS)
    batches = iter_batches(QUERIES, reader, [[0], [1], [2], [3]])
    next(batches)
    assert reading_threads()
    batches.close()
    assert reader.read_so_far == [1, 2]
    assert not reading_threads()


def test_an_error_of_reading_is_raised_where_its_batch_is_asked_for():
    batches = iter_batches(QUERIES, KnownReader(ITEMS, broken=3), [[0], [2], [1]])
    assert next(batches)[0] == [0]
    with pytest.raises(DataError, match="query 3 is broken"):
        next(batches)
    assert not reading_threads()
