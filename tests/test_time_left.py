"""Time left: simulated packs whose real speed is known, so that the estimate can be held against the truth."""

import random

import pytest

from allelse.progress import TimeLeft


class Machine:
    """Works off packs in turn, or several at once, and tells a ``TimeLeft`` as the engine would."""

    def __init__(self, packs, *, training=1.0, evaluating=1.0, preparing=0.0, between=0.0, load=lambda now: 1.0):
        self.packs, self.evaluation = packs, 0.2
        self.factor = {"training": training, "evaluating": evaluating}
        self.preparing, self.between, self.load = preparing, between, load
        self.events: list[tuple[float, str, float, float, str]] = []

    def one(self, now, pack, seconds, kind="", share=0.0, epochs=5, off=1.0):
        """Append the events of one pack from ``now`` on; when it ends."""
        self.events.append((now, pack, seconds, share, "preparing"))
        now += self.preparing
        self.events.append((now, pack, seconds, share, "preparing"))
        rest = 1 - share
        for _ in range(epochs):
            for doing, part in (("training", 1 - self.evaluation), ("evaluating", self.evaluation)):
                steps = 4 if doing == "training" else 1
                for _ in range(steps):
                    done = rest * part / epochs / steps
                    share += done
                    now += done * seconds * self.factor[doing] * self.load(now) * off
                    self.events.append((now, pack, seconds, min(share, 1.0) if share < 1 - 1e-9 else 1.0, doing))
        return now + self.between

    def estimates(self, ends, known=None):
        """Estimate over truth of the time left at each tenth."""
        begun, end = 0.0, max(ends)
        left = TimeLeft({name: (seconds, kind) for name, seconds, kind in known or self.packs}, begun)
        at, found = 1, {}
        for now, pack, seconds, share, doing in sorted(self.events, key=lambda event: event[0]):
            left.at(pack, seconds, share, doing, self.evaluation, now)
            while at < 10 and now >= at * end / 10:
                found[at] = left.seconds(now) / max(end - now, 1e-9)
                at += 1
        return found

    def in_turn(self, off=lambda kind: 1.0, shares=None):
        now, ends = 0.0, []
        for name, seconds, kind in self.packs:
            now = self.one(now, name, seconds, kind, (shares or {}).get(name, 0.0), off=off(kind))
            ends.append(now)
        return self.estimates(ends)


def packs(count=20, seconds=lambda number: 3.0, kind=lambda number: "one"):
    return [(f"p{number}", seconds(number), kind(number)) for number in range(count)]


def assert_right(found, within=0.2, tenths=range(1, 10)):
    assert {tenth: ratio for tenth, ratio in found.items() if tenth in tenths and abs(ratio - 1) > within} == {}
    assert set(tenths) <= set(found)


def test_before_anything_has_passed_it_is_what_was_planned():
    left = TimeLeft({"a": (10.0, ""), "b": (5.0, "")}, 100.0)
    assert left.seconds(100.0) == pytest.approx(15.0)
    assert left.seconds(103.0) == pytest.approx(12.0)
    assert left.seconds(900.0) == 0.0


@pytest.mark.parametrize("factor", [0.3, 0.8, 1.0, 2.5, 10.0])
def test_a_plan_that_is_off_by_a_factor_is_found_out_within_a_tenth(factor):
    assert_right(Machine(packs(), training=factor, evaluating=factor).in_turn())


@pytest.mark.parametrize("evaluating", [0.2, 4.0])
def test_evaluation_that_takes_longer_or_less_long_than_planned(evaluating):
    assert_right(Machine(packs(), evaluating=evaluating).in_turn())
    # one long pack, of which no evaluation but those of its first epochs was seen
    machine = Machine(packs(1, lambda _: 300.0), evaluating=evaluating)
    assert_right(machine.estimates([machine.one(0.0, "p0", 300.0, epochs=20)]))


def test_what_every_pack_costs_beside_its_work():
    assert_right(Machine(packs(200, lambda _: 0.1), preparing=0.2, between=0.1).in_turn())


def test_packs_of_all_sizes_with_noise():
    noise = random.Random(0)
    machine = Machine(packs(60, lambda number: 1.0 + number % 7), training=1.7, load=lambda _: noise.uniform(0.8, 1.25))
    assert_right(machine.in_turn())


def test_arms_that_are_off_the_plan_each_in_its_own_way_are_told_apart_once_seen():
    alternating = packs(40, kind=lambda number: "slow" if number % 4 == 0 else "fast")
    assert_right(Machine(alternating).in_turn(off=lambda kind: 3.0 if kind == "slow" else 1.0), tenths=range(2, 10))
    # seen once in the first half, in the same order again in the second: half-way all is known
    rising = packs(20, kind=lambda number: str(number % 10))
    found = Machine(rising).in_turn(off=lambda kind: 0.5 + int(kind) / 5)
    assert_right(found, within=0.1, tenths=(6, 7, 8, 9))


def test_load_that_comes_and_stays_is_followed():
    machine = Machine(packs(400), load=lambda now: 1.0 if now < 400 else 3.0)
    assert_right(machine.in_turn(), tenths=(5, 6, 7, 8, 9))


def test_a_pack_that_goes_on_from_its_checkpoint_counts_what_this_process_did():
    machine = Machine(packs(2, lambda _: 100.0), training=2.0, evaluating=2.0)
    assert_right(machine.in_turn(shares={"p0": 0.9}))


def test_packs_at_once_are_counted_as_such():
    machine = Machine(packs(40), training=2.0, evaluating=2.0)
    ends = [0.0] * 4
    for name, seconds, kind in machine.packs:
        worker = ends.index(min(ends))
        ends[worker] = machine.one(ends[worker], name, seconds, kind)
    assert_right(machine.estimates(ends))


def test_a_pack_that_failed_is_over_and_one_that_was_halved_is_still_to_be_done():
    left = TimeLeft({"a": (10.0, ""), "b": (10.0, "")}, 0.0)
    left.at("a", 10.0, 0.0, "preparing", 0.0, 0.0)
    left.at("a", 10.0, 0.0, "failed", 0.0, 0.0)
    assert left.seconds(0.0) == pytest.approx(20.0)
    left.at("a1", 5.0, 0.0, "preparing", 0.0, 0.0)
    left.at("a1", 5.0, 1.0, "failed", 0.0, 0.0)
    assert left.seconds(0.0) == pytest.approx(15.0)


def test_packs_that_could_not_be_measured_and_clocks_that_jump_raise_nothing():
    left = TimeLeft({"a": (0.0, "")}, 50.0)
    for now, share, doing in ((50.0, 0.0, "preparing"), (10.0, 0.5, "training"), (60.0, 1.0, "evaluating")):
        left.at("a", 0.0, share, doing, 0.0, now)
        assert left.seconds(now) >= 0


def test_a_pack_that_was_lost_is_begun_again():
    left = TimeLeft({"a": (10.0, ""), "b": (10.0, "")}, 0.0)
    left.at("a", 10.0, 0.0, "preparing", 0.0, 0.0)
    left.at("a", 10.0, 0.5, "training", 0.0, 5.0)
    assert left.seconds(5.0) == pytest.approx(15.0)
    left.at("a", 10.0, 0.0, "lost", 0.0, 5.0)
    assert left.seconds(5.0) == pytest.approx(20.0)
    left.at("a", 10.0, 0.5, "preparing", 0.0, 5.0)  # from its checkpoint
    assert left.seconds(5.0) == pytest.approx(15.0)


def test_a_report_that_tells_of_both_kinds_of_work_leaves_the_rest_right():
    left = TimeLeft({"a": (10.0, "")}, 0.0)
    left.at("a", 10.0, 0.0, "preparing", 0.4, 0.0)
    for step in range(1, 10):  # a worker tells ten times, and each time the last it did was training
        left.at("a", 10.0, step / 10, "training", 0.4, float(step))
        assert left.seconds(float(step)) == pytest.approx(10.0 - step)


@pytest.mark.parametrize(("count", "seconds"), [(40, 3.0), (10, 10.0)])
def test_a_first_pack_that_prepares_much_longer_is_no_measure_for_the_rest(count, seconds):
    machine, now, ends = Machine(packs(count, lambda _: seconds)), 0.0, []
    for number, (name, seconds, kind) in enumerate(machine.packs):
        machine.preparing = 0.1 if number else 4.0
        now = machine.one(now, name, seconds, kind)
        ends.append(now)
    assert_right(machine.estimates(ends), within=0.1)
