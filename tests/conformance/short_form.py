"""Which behaviours a class shows in the short form of the tests, where others have shown the rest of them.

`EVENTBUS_SOAK=1` (or `EVENTBUS_TEST_LONG=1`) is the long form: every class shows everything.
"""

from __future__ import annotations

import os

from eventbus.testing._conformance_faults import FaultConformance
from eventbus.testing.conformance import BackendConformance

LONG = any(os.environ.get(name, "") not in ("", "0") for name in ("EVENTBUS_SOAK", "EVENTBUS_TEST_LONG"))


def names_of(suite: type) -> frozenset[str]:
    """The behaviours of a part of the suite, without those it stands upon."""
    return frozenset(name for name in dir(suite) if name.startswith("test_"))


ALL = names_of(BackendConformance)
FAULTS = names_of(FaultConformance) - names_of(FaultConformance.__bases__[0])

KILLED = frozenset({"test_killed_and_restarted_under_load_nothing_confirmed_is_lost"})
SWAPS = frozenset(
    {"test_sessions_swapped_under_load_lose_nothing", "test_sessions_swapped_while_handlers_fail_lose_nothing"}
)
FROZEN_OR_CUT = frozenset(
    {"test_frozen_under_load_nothing_confirmed_is_lost", "test_links_cut_under_load_lose_nothing"}
)
DELIVERY = frozenset(
    {
        "test_everything_about_a_message_arrives",
        "test_publish_many_gives_receipts_in_order",
        "test_members_of_a_group_share_and_groups_do_not",
        "test_a_known_group_goes_on_where_it_was",
        "test_order_per_key_with_concurrency",
        "test_a_failing_handler_is_called_again_and_its_key_waits",
        "test_after_the_last_attempt_a_message_is_a_dead_letter",
        "test_a_batch_handler_gets_everything_once_and_in_order",
        "test_close_lets_handlers_finish_and_says_so",
        "test_reconnect_on_demand_loses_nothing",
    }
)
"""One of each kind, where the broker is the same as elsewhere and something else is not."""
FAR = (
    DELIVERY
    | FROZEN_OR_CUT
    | {
        "test_sessions_swapped_under_load_lose_nothing",
        "test_wildcards",
        "test_a_broadcast_goes_to_everyone_from_now_on",
        "test_a_new_group_starts_at_the_earliest_or_the_latest",
        "test_what_was_not_acknowledged_goes_to_the_next_process",
        "test_what_runs_at_unsubscribe_is_finished_and_the_rest_goes_to_the_group",
        "test_a_dead_letter_is_replayed_and_handled_under_its_id",
        "test_all_that_is_stored_is_read_each_partition_in_order",
        "test_a_reconnect_in_the_middle_leaves_nothing_out",
        "test_close_during_an_outage_is_in_time_and_its_report_is_true",
    }
)
"""What takes more than one round trip, and might take as many as there are messages."""
KAFKA_FAULTS = (
    KILLED
    | SWAPS
    | FROZEN_OR_CUT
    | {
        "test_members_that_come_and_go_under_load_lose_nothing",
        "test_what_is_published_during_an_outage_is_stored_after_it_in_order",
        "test_a_handler_that_fails_during_an_outage_is_tried_again_in_order",
        "test_a_dead_letter_of_an_outage_is_confirmed_after_it",
        "test_a_replay_that_an_outage_ends_tells_what_may_be_stored",
        "test_links_in_a_black_hole_are_replaced_and_nothing_is_lost",
        "test_close_during_an_outage_is_in_time_and_its_report_is_true",
    }
)
"""A restart takes seconds there, and tests/faults shows more of them."""
KAFKA_FAR = DELIVERY | FROZEN_OR_CUT
MOCK = DELIVERY | KILLED | FROZEN_OR_CUT
