"""Outage cases (d) and (e): every subscription comes back, once; one that cannot does not hold the others."""

from __future__ import annotations

import threading

import pytest
from outages_base import GROUP, OutageBase, Watch

from eventbus import BROADCAST, EventBus, Phase, SubscribeError, SubscriptionState
from eventbus.testing import wait_until


class SubscriptionOutages(OutageBase):
    """Subscriptions through an outage."""

    # -- (d) restored exactly once ---------------------------------------------------------------

    @pytest.mark.outage("d")
    def test_every_kind_of_subscription_is_restored_exactly_once(self) -> None:
        bus = self.make()
        groups = bus.features.groups
        before = [
            self.listen(bus, group="exact"),
            self.listen(bus, f"{self.topic.partition('.')[0]}.*", group="star", concurrency=3),
        ]
        bus.open(timeout=5.0)
        after = [
            self.listen(bus, f"{self.topic.partition('.')[0]}.>", group="rest"),
            self.listen(bus, start="latest", group="late"),
            self.listen(bus, group=BROADCAST),
        ]
        subs = [*before, *after]
        self.wait_active(*subs)
        self.publish(bus, 1, 2)
        self._copies(len(subs), 2)
        lanes = self._lanes(bus)
        for round in (1, 2, 3):
            self.broker.kill()
            self.wait_lost(bus)
            kept = SubscriptionState.ACTIVE if bus.features.heals_itself else SubscriptionState.PENDING
            assert all(sub.state is kept for sub in subs)
            self.broker.restore()
            self.wait_back(bus, round)
            self.wait_active(*subs)
            self.publish(bus, 1 + 2 * round, 2 + 2 * round)
            self._copies(len(subs), 2 + 2 * round)
            assert self._lanes(bus) == lanes, "a second delivery loop"
            assert self.broker.links() == 1
        self.assert_history(copies=len(subs))
        assert bus.get_statistics().handled == len(subs) * 8
        assert groups

    @pytest.mark.outage("d")
    def test_only_what_was_unacknowledged_comes_again_to_the_others_of_the_group(self) -> None:
        one, two = self.open(), self.open()
        if not one.features.replays:
            pytest.skip("not applicable: nothing is delivered again here")
        subs = [self.listen(one, concurrency=2), self.listen(two, concurrency=2)]
        self.wait_active(*subs)
        for number in range(1, 21):
            for key in "abcdefgh":
                self.publish(one, number, key=key)
        self.settle(*subs, handled=160)
        assert one.get_statistics().handled > 0
        assert two.get_statistics().handled > 0
        self.broker.kill()
        self.wait_lost(one)
        self.wait_lost(two)
        self.broker.restore()
        self.wait_back(one, 1)
        self.wait_back(two, 1)
        for key in "abcdefgh":
            self.publish(two, 21, key=key)
        self.settle(*subs, handled=168)
        self.assert_history(ordered=one.features.ordered_by_key)
        assert self.history.duplicates() == {}

    @pytest.mark.outage("d")
    def test_a_handler_that_runs_through_the_outage_gets_its_message_once(self) -> None:
        bus, entered, release = self.open(), threading.Event(), threading.Event()
        self.releases.append(release.set)

        def slow(message) -> None:
            entered.set()
            assert release.wait(20.0)
            self.history.handler(message)

        sub = bus.subscribe(self.topic, slow, group=GROUP)
        self.wait_active(sub)
        self.publish(bus, 1, 2)
        assert entered.wait(5.0)
        self.broker.kill()
        self.wait_lost(bus)
        self.broker.restore()
        self.wait_back(bus, 1)
        self.wait_active(sub)
        self.publish(bus, 3)
        release.set()
        self.settle(sub, handled=3 if bus.features.replays else None)
        self.assert_history()
        assert self.history.duplicates() == {}

    @pytest.mark.outage("d")
    def test_subscribed_during_the_outage_delivers_after_it(self) -> None:
        bus = self.open()
        self.broker.kill()
        self.wait_lost(bus)
        sub = self.listen(bus)
        assert sub.state is SubscriptionState.PENDING
        self.broker.restore()
        self.wait_back(bus, 1)
        self.wait_active(sub)
        self.publish(bus, 1)
        self.settle(sub, handled=1)

    @pytest.mark.outage("d")
    def test_subscribed_while_the_old_link_heals_delivers_at_once(self) -> None:
        """The next probe is 30 s away: nothing may wait for it."""
        bus = self.open(health_check={"interval": 30.0}, reconnect={"failure_threshold": 1}, publish_timeout=0.1)
        self.broker.freeze()
        with pytest.raises(Exception, match="no answer"):
            bus.publish(self.topic, self.history.payload("k", 1))  # the probe that follows at once fails
        self.wait_lost(bus)
        sub = self.listen(bus)
        self.broker.thaw()
        self.wait_back(bus, 1)
        self.wait_active(sub)

    @pytest.mark.outage("d")
    def test_unsubscribed_during_the_outage_stays_away(self) -> None:
        bus = self.open()
        sub, other = self.listen(bus), self.listen(bus, group="other")
        self.broker.kill()
        self.wait_lost(bus)
        assert bus.unsubscribe(sub, timeout=1.0)
        self.broker.restore()
        self.wait_back(bus, 1)
        self.wait_active(other)
        self.publish(bus, 1)
        self.settle(other, handled=1)
        assert sub.state is SubscriptionState.CLOSED
        assert self.history.duplicates() == {}

    # -- (e) one that cannot be restored ---------------------------------------------------------

    @pytest.mark.outage("e")
    def test_one_that_cannot_be_restored_fails_alone_and_comes_back_by_itself(self) -> None:
        bus = self.open_replacing()
        watch = Watch(bus)
        bad_topic = f"{self.topic}.bad"
        good, bad = self.listen(bus), self.listen(bus, bad_topic)
        self.wait_active(good, bad)
        self.broker.kill()
        self.wait_lost(bus)
        self.broker.refuse_topic(bad_topic)
        self.broker.restore()
        self.wait_back(bus, 1)
        wait_until(lambda: bad.state is SubscriptionState.FAILED)
        assert bad.error is not None
        assert bad_topic in str(bad.error) or "perm" in str(bad.error).lower()
        self.wait_active(good)
        self.publish(bus, 1)
        self.settle(good, handled=1)
        self._see_probes(bus, 3)
        assert len(watch.errors_of("subscription")) == 1, "reported once, not at each try"
        assert bus.get_connection_state().phase is Phase.CONNECTED
        self.broker.allow_topic(bad_topic)
        self.wait_active(bad)
        assert bad.error is None
        self.publish(bus, 2, topic=bad_topic)
        self.settle(bad, handled=2)
        self.assert_history()
        assert bus.get_connection_state().reconnect_count == 1

    @pytest.mark.outage("e")
    def test_one_that_fails_while_the_old_link_heals_goes_on(self) -> None:
        """A candidate that is thrown away has no say over subscriptions that the old link still delivers."""
        bus = self.open()
        sub = self.listen(bus)
        self.wait_active(sub)
        self.broker.freeze()
        self.wait_lost(bus)
        self.broker.refuse_topic(self.topic)
        self.broker.thaw()
        self.wait_back(bus, 1)
        self.broker.allow_topic(self.topic)
        self.wait_active(sub)
        self._see_probes(bus, 2)  # what a client knows of a topic is as old as that
        self.publish(bus, 1, 2)
        self.settle(sub, handled=2)
        self.assert_history()
        assert self.history.duplicates() == {}

    @pytest.mark.outage("e")
    def test_a_refused_subscribe_says_why_and_leaves_nothing(self) -> None:
        bus = self.open()
        self.broker.refuse_topic(self.topic)
        with pytest.raises(SubscribeError):
            self.listen(bus)
        self.broker.allow_topic(self.topic)
        self.publish(bus, 1)
        sub = self.listen(bus)
        self.settle(sub, handled=1 if bus.features.replays else None)
        self.assert_history()

    # -- helpers ---------------------------------------------------------------------------------

    def _copies(self, copies: int, messages: int) -> None:
        wait_until(lambda: not self.history.check(copies=copies), message=self.describe)
        for bus in self.buses:
            wait_until(lambda bus=bus: bus.get_statistics().handled == copies * messages, message=self.describe)
        self.history.settle()

    def _lanes(self, bus: EventBus) -> int:
        prefix = f"eventbus.{bus.config.name}.lane-"
        return sum(thread.name.startswith(prefix) for thread in threading.enumerate())

    def _see_probes(self, bus: EventBus, count: int) -> None:
        for _ in range(count):
            before = bus.get_health_status().last_success_time
            wait_until(lambda before=before: bus.get_health_status().last_success_time != before)
