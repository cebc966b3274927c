"""The watermark never passes what is not done, and never stops before what is."""

from __future__ import annotations

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
        assert mark.committed <= mark.position
        assert not out or mark.committed == min(out)
