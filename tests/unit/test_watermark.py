"""The watermark never passes what is not done, and never stops before what is."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from eventbus.consuming.watermark import Watermark


def test_everything_below_the_committed_offset_is_done() -> None:
    mark = Watermark(5)
    assert (mark.committed, mark.idle) == (5, True)
    for offset in (5, 7, 8):  # gaps are fine
        assert mark.hand_out(offset)
    mark.finish(7)
    assert (mark.committed, mark.in_hand) == (5, [5, 8])
    mark.finish(5)
    assert mark.committed == 8
    mark.finish(8)
    mark.finish(8)
    assert (mark.committed, mark.idle, mark.position) == (9, True, 9)


@given(st.lists(st.tuples(st.sampled_from(["hand out", "finish", "rewind"]), st.integers(0, 30)), max_size=60))
def test_no_offset_is_lost_or_committed_too_early(steps: list[tuple[str, int]]) -> None:
    mark = Watermark(0)
    done: set[int] = set()
    out: set[int] = set()
    for step, value in steps:
        if step == "hand out":
            offset = mark.position
            if mark.hand_out(offset):
                assert offset not in done, "handed out again though it was finished"
                out.add(offset)
            else:
                assert offset in done, "left out though it was not finished"
        elif step == "finish" and value < 30:
            if value >= mark.committed:
                done.add(value)
            mark.finish(value)
            out.discard(value)
        else:
            again = mark.rewind()
            assert set(again) == out
            out.clear()
            assert mark.position == mark.committed
        assert set(mark.in_hand) == out
        assert mark.held == len(out)
        assert mark.ahead == len({offset for offset in done if offset >= mark.position})
        assert mark.committed <= mark.position
        assert not out or mark.committed == min(out)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_whatever_the_gaps_and_the_order_all_done_means_committed_to_the_end(gaps: list[int], chance: Random) -> None:
    mark, offsets, position = Watermark(3), list[int](), 3
    for gap in gaps:
        position += gap - 1  # some were deleted, or belong to others
        assert mark.hand_out(position)
        offsets.append(position)
        position += 1
    left = set(offsets)
    chance.shuffle(offsets)
    for offset in offsets:
        assert mark.committed == min(left)
        mark.finish(offset)
        left.discard(offset)
    assert (mark.committed, mark.idle, mark.in_hand) == (position, True, [])


def test_what_is_below_the_watermark_or_done_twice_changes_nothing() -> None:
    mark = Watermark(10)
    mark.hand_out(10)
    mark.finish(9)
    mark.finish(0)
    assert (mark.committed, mark.in_hand) == (10, [10])
    mark.finish(10)
    mark.finish(10)
    assert (mark.committed, mark.idle) == (11, True)
    assert not mark._finished, "nothing is remembered that nobody will ask for"


def test_two_owners_gone_in_a_row_and_what_was_done_is_still_not_done_again() -> None:
    mark = Watermark(0)
    for offset in (0, 1, 2):
        mark.hand_out(offset)
    mark.finish(1)
    assert mark.rewind() == [0, 2]
    assert [mark.hand_out(offset) for offset in (0, 1)] == [True, False]
    assert mark.rewind() == [0]
    assert [mark.hand_out(offset) for offset in (0, 1, 2)] == [True, False, True]
    mark.finish(0)
    assert mark.committed == 2
    mark.finish(2)
    assert mark.committed == 3
