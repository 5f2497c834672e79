"""Plans: how many replicas go in a pack, which runs are in which pack, how long it takes, what differs between arms."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_support import PLAIN, TINY, changed, write_study

from allelse import data, plan, study
from allelse.errors import StudyError
from allelse.fit import check_arm
from allelse.plan import GAIN_TO_PACK_MORE, Plan, differing_keys
from allelse.records import Way


@pytest.fixture
def load(tmp_path):
    return lambda text=TINY, **options: study.load(write_study(tmp_path, text), **options)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


SERIAL = Way()
GPU = (Way("grouped", True), Way("branches", True), Way("im2col", True))


def choose(runs, rate_of, seconds=1e9, ways=(SERIAL,)):
    """A choice where the rate depends on the size alone, for a training that is long enough to measure everything."""
    return plan.choose(runs, lambda size, way: rate_of(size), lambda rate: seconds, 1, ways)


RATES = st.lists(st.floats(0.01, 1e6), min_size=65, max_size=65)


@given(seeds=st.integers(1, 64), rates=RATES)
def test_no_pack_size_is_taken_that_was_measured_slower_than_serial(seeds, rates):
    measured = {}

    def rate_of(size):
        measured[size] = rates[size]
        return rates[size]

    choice = choose(seeds, rate_of)
    assert 1 <= choice.replicas <= seeds
    assert choice.rate == rates[choice.replicas]
    assert choice.replicas == 1 or choice.rate >= GAIN_TO_PACK_MORE * rates[1]
    assert all(choice.rate * GAIN_TO_PACK_MORE >= measured[size] for size in measured if size >= choice.replicas)


@given(seeds=st.integers(1, 64), ways=st.sampled_from([(SERIAL,), GPU]))
def test_packs_grow_to_all_seeds_while_that_pays(seeds, ways):
    assert choose(seeds, lambda size: 100.0 * size, ways=ways).replicas == seeds


@given(seeds=st.integers(1, 64), ways=st.sampled_from([(SERIAL,), GPU]))
def test_a_gain_within_the_noise_does_not_pay(seeds, ways):
    assert choose(seeds, lambda size: 100.0 + 0.01 * size, ways=ways).replicas == 1


@given(seeds=st.integers(2, 64))
def test_the_search_ends_with_the_first_size_that_is_clearly_slower(seeds):
    asked = []
    choose(seeds, lambda size: asked.append(size) or 100.0 / size)
    assert len(asked) == 2


def test_a_size_that_costs_too_much_to_measure_is_not_tried():
    asked = []
    # 50 images a second alone: five steps of a pack of 8 take 0.8 s, which is more than 3 % of 10 s and than half a second
    assert choose(16, lambda size: asked.append(size) or 50.0 * size, seconds=10).replicas == 4
    assert asked == [1, 2, 4]


def test_where_the_largest_pack_costs_too_much_to_measure_smaller_ones_are_tried():
    asked = []
    assert choose(16, lambda size: asked.append(size) or 50.0 * size, seconds=10, ways=GPU).replicas == 4
    assert asked == [1, *[4] * 3, *[2] * 3]


def test_arms_with_a_loss_of_the_users_own_are_measured_apart_and_others_are_packed_alike(load, digits):
    own = "python:torch.nn:CrossEntropyLoss"
    text = TINY.replace(
        '"model.activation" = ["sigmoid", "relu"]',
        f"""[factors.loss]
ours = {{}}
squared = {{ loss = "squared-error" }}
own = {{ loss = {{ name = "{own}", reduction = "none" }} }}""",
    ).split("\n[[claims]]")[0]
    measured = []
    plan.make_plan(load(text), lambda arm: digits, lambda pack: measured.append(pack.runs[0].arm["loss"]) or 9.0, (SERIAL,))
    assert set(measured) == {"ours", "own"}


def test_measuring_ends_when_it_has_cost_its_share(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(plan.time, "perf_counter", lambda: float(next(clock)))  # every look at it takes a second
    asked = []
    choose(64, lambda size: asked.append(size) or 1e6 * size, seconds=100.0)  # 3 seconds
    assert asked == [1, 2, 4]


def test_a_network_that_cannot_be_measured_is_trained_alone():
    assert choose(16, lambda size: None) == plan.Choice(1, SERIAL, None)
    assert choose(16, lambda size: 50.0 if size == 1 else None) == plan.Choice(1, SERIAL, 50.0)


@pytest.mark.parametrize("fastest", GPU)
def test_the_fastest_way_is_taken(fastest):
    def rate_of(size, way):
        return 100.0 * size * (2 if way == fastest else 1)

    choice = plan.choose(10, rate_of, lambda rate: 1e9, 1, GPU)
    assert choice == plan.Choice(10, fastest, 2000.0)


def test_a_way_that_fails_is_passed_over_and_a_pack_that_does_not_fit_is_tried_smaller():
    rate_from_pack = {(1, GPU[0]): 10.0, (4, GPU[2]): 30.0}
    assert plan.choose(10, lambda *pack: rate_from_pack.get(pack), lambda rate: 1e9, 1, GPU) == plan.Choice(4, GPU[2], 30.0)


@pytest.mark.parametrize(
    ("rates", "taken", "asked"),
    [
        ({1: 10, 2: 25, 4: 30, 10: 12}, 4, [1, 10, 4, 2]),
        ({1: 10, 2: 40, 4: 30, 10: 12}, 2, [1, 10, 4, 2]),
        ({1: 10, 2: 25, 4: 30, 10: 60}, 10, [1, 10, 4]),
        ({1: 10, 2: 8, 4: 6, 10: 7}, 1, [1, 10, 4]),
    ],
)
def test_a_gpu_is_asked_for_smaller_packs_while_they_are_faster(rates, taken, asked):
    seen = []
    assert choose(10, lambda size: seen.append(size) or float(rates[size]), ways=GPU).replicas == taken
    assert list(dict.fromkeys(seen)) == asked


def test_a_device_that_cannot_record_graphs_trains_without():
    rate_from_pack = {(1, SERIAL): 10.0, (10, SERIAL): 30.0}
    assert plan.choose(10, lambda *pack: rate_from_pack.get(pack), lambda rate: 1e9, 1, GPU).way == SERIAL


@pytest.mark.parametrize(
    ("seeds", "sizes"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 5]), (10, [1, 2, 4, 10]), (16, [1, 2, 4, 8, 16])]
)
def test_sizes_about_double_and_share_the_seeds_out_evenly(seeds, sizes):
    asked = []
    choose(seeds, lambda size: asked.append(size) or float(100 * size))
    assert asked == sizes


def make_plan(loaded, dataset, measure, **options):
    return plan.make_plan(loaded, lambda arm: dataset, measure, (SERIAL,), **options)


@pytest.mark.parametrize(
    ("seeds", "fastest", "shares"), [(10, 4, [3, 3, 4]), (5, 2, [1, 2, 2]), (7, 7, [7]), (3, 1, [1, 1, 1])]
)
def test_packs_hold_every_run_once_in_even_shares(load, digits, seeds, fastest, shares):
    loaded = load(seeds=seeds)
    made = make_plan(loaded, digits, lambda pack: 1e6 * len(pack.runs) if len(pack.runs) <= fastest else 1.0)
    packed = [run for planned in made.packs for run in planned.pack.runs]
    assert packed == list(loaded.runs())
    assert [len(planned.pack.runs) for planned in made.packs] == [*shares, *shares]
    assert all(len({json.dumps(dict(run.arm)) for run in planned.pack.runs}) == 1 for planned in made.packs)


def test_a_plan_comes_back_from_its_json(load, digits):
    loaded = load(seeds=5)
    made = make_plan(loaded, digits, lambda pack: 1e6 * len(pack.runs))
    again = Plan.from_json(json.loads(json.dumps(made.to_json())), loaded)
    assert again == made
    assert [planned.pack.id for planned in again.packs] == [planned.pack.id for planned in made.packs]


def test_the_estimate_is_the_work_over_the_measured_speed(load, digits):
    made = make_plan(load(seeds=4), digits, lambda pack: 5e5 * len(pack.runs))
    # a pack of 4: two epochs of 100 training and 359 test images, at the end 100 and three times 359; a forward is a third
    work = 4 * (2 * (100 + 359 / 3) + (100 + 3 * 359) / 3)
    assert [planned.seconds for planned in made.packs] == pytest.approx([work / 2e6] * 2)
    assert made.seconds == pytest.approx(2 * work / 2e6)
    assert [planned.images_per_second for planned in made.packs] == [2e6, 2e6]


def test_no_packs_where_they_are_not_wanted(load, digits):
    made = make_plan(load(seeds=4), digits, lambda pack: 1e6 * len(pack.runs), most=1)
    assert {len(planned.pack.runs) for planned in made.packs} == {1}


def test_arms_that_differ_in_learning_rate_alone_share_packs(load, digits):
    factors = '[factors]\n"optimizer.lr" = [0.1, 0.2]\nbatch_size = [10, 20]\n'
    loaded = load(PLAIN.split("[factors]")[0] + factors, seeds=3)
    made = make_plan(loaded, digits, lambda pack: 1e6 * len(pack.runs))
    assert [sorted({(run.arm["batch_size"], run.arm["optimizer.lr"]) for run in p.pack.runs}) for p in made.packs] == [
        [(10, 0.1), (10, 0.2)],
        [(20, 0.1), (20, 0.2)],
    ]
    assert [len(planned.pack.runs) for planned in made.packs] == [6, 6]
    assert Plan.from_json(made.to_json(), loaded) == made


def test_halves_hold_the_runs_of_the_whole_and_take_as_long(load, digits):
    loaded = load(seeds=5)
    made = make_plan(loaded, digits, lambda pack: 1e6 * len(pack.runs))
    halves = plan.halve(made.packs[0])
    assert [len(half.pack.runs) for half in halves] == [2, 3]
    assert halves[0].pack.runs + halves[1].pack.runs == made.packs[0].pack.runs
    replanned = made.with_halves(made.packs[0], halves)
    assert replanned.seconds == pytest.approx(made.seconds)
    assert [planned.pack for planned in replanned.packs] == [*(half.pack for half in halves), made.packs[1].pack]


def test_a_batch_may_be_as_large_as_the_data_and_no_larger(load, digits):
    check_arm(load(changes=["batch_size=100"]).arms[0], digits)
    with pytest.raises(StudyError) as caught:
        check_arm(load(changes=["batch_size=101"]).arms[0], digits)
    assert str(caught.value) == "recipe.batch_size: 101 is larger than the training data of 100 images; allowed: 1 to 100"


def test_more_images_a_class_than_there_are_is_refused(load, digits):
    with pytest.raises(StudyError, match=r"recipe\.train_per_class: digits: class '0' has"):
        check_arm(load(changes=["train_per_class=1000"]).arms[0], digits)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("model.pool=[1, 2, 3]", None),
        (
            "model.pool=[1, 2, 3, 4]",
            "recipe.model.pool: halves the image after block 4, where it is 1 × 1 already; pool less often",
        ),
        (
            "model.head={ name = 'flatten', pool = 9 }",
            "recipe.model.head.pool: 9 is more than the 8 × 8 pixels that reach the head; allowed: 1 to 8",
        ),
    ],
)
def test_images_too_small_for_the_model_are_found_before_training(load, digits, change, expected):
    arm = load(changes=["model.depth=4", change]).arms[0]
    if expected is None:
        check_arm(arm, digits)
    else:
        with pytest.raises(StudyError) as caught:
            check_arm(arm, digits)
        assert str(caught.value) == expected


@pytest.mark.parametrize(("pools", "fits"), [([1, 2], True), ([1, 2, 3], False)])
def test_a_single_image_is_refused_where_it_leaves_a_norm_one_value_a_channel(load, digits, pools, fits):
    arm = load(changes=["model.depth=4", f"model.pool={pools}", "batch_size=1"]).arms[0]
    if fits:
        check_arm(arm, digits)
    else:
        with pytest.raises(
            StudyError, match=r"batch_size: 1 gives BatchNorm one value a channel in blocks\.3\.norm and no var"
        ):
            check_arm(arm, digits)


@pytest.mark.parametrize(("length", "last", "epochs"), [("epochs=3", 2, "3"), ("updates=13", 3, "3.25")])
@pytest.mark.parametrize(
    ("schedule", "key", "why"),
    [
        ("{name = 'cosine', warmup_epochs = %d}", "warmup_epochs", "leaves nothing of a training of"),
        ("{name = 'step', milestones = [1, %d]}", "milestones", "comes when a training of"),
        ("{name = 'step', every = %d}", "every", "comes when a training of"),
    ],
)
def test_a_schedule_gets_where_it_says_while_there_is_training_left(load, digits, length, last, epochs, schedule, key, why):
    def arm_until(epoch):
        changes = ["batch_size=25", length, f"schedule={schedule % epoch}"]  # 4 steps an epoch
        return load(TINY.replace("epochs          = 2\n", ""), changes=changes).arms[0]

    check_arm(arm_until(last), digits)
    with pytest.raises(StudyError) as caught:
        check_arm(arm_until(last + 1), digits)
    assert str(caught.value).startswith(f"recipe.schedule.{key}: {last + 1} {why} {epochs} epochs")
    assert str(caught.value).endswith(f"; allowed: less than {epochs}")


def test_what_differs_between_arms_is_told_key_by_key(load):
    assert differing_keys(load().arms) == {"model.activation.name": ["sigmoid", "relu"]}
    text = changed('["sigmoid", "relu"]', '["relu", { name = "leaky_relu", slope = 0.1 }]', PLAIN)
    assert differing_keys(load(text + '"batch_size" = [10]\n').arms) == {
        "model.activation.name": ["relu", "leaky_relu"],
        "model.activation.slope": [None, 0.1],
    }
    assert differing_keys(load().arms[:1]) == {}


RELU_OR_GELU = '"model.activation" = ["relu", "gelu"]\n'
GAIN = '"model.init" = [{ name = "kaiming_normal", gain = "activation" }]\n"model.activation" = ["relu", "sigmoid"]\n'
EQUAL = [
    ('"model.block" = ["conv-act", "conv-norm-act"]\n"model.norm" = ["batch", "layer"]\n', [["conv-act", "conv-act"]]),
    ('"model.block" = ["conv-norm"]\n' + RELU_OR_GELU, [["conv-norm", "conv-norm"]]),
    ('"model.block" = ["conv-norm"]\n"model.head" = [{ hidden = [3] }]\n' + RELU_OR_GELU, []),
    ('"model.block" = ["conv-norm"]\n' + GAIN, []),
    ('"model.block" = ["conv-norm-act"]\n' + RELU_OR_GELU, []),
    ('one = { a = { epochs = 2 }, b = { "optimizer.lr" = 0.01 } }\n', [["a", "b"]]),
]
"""factors, and the arms that are one network, by their first level"""


@pytest.mark.parametrize(("factors", "equal"), EQUAL)
def test_arms_of_one_network_are_found_by_what_no_part_of_it_reads(load, factors, equal):
    arms = load(f"{PLAIN.split('[factors]')[0]}[factors]\n{factors}").arms
    assert [[next(iter(arm.levels.values())) for arm in found] for found in plan.equal_networks(arms)] == equal


def test_seeds_that_only_one_arm_has_are_packed_apart_so_that_pairs_are_packed_alike(load, digits):
    adjusted = '[[adjust]]\nwhere = { "model.activation" = "relu" }\nseeds = 7\n'
    loaded = load(changed("seeds    = 2", "seeds    = 4", f"{PLAIN}\n{adjusted}"))
    made = make_plan(loaded, digits, lambda pack: 1e6 * len(pack.runs) if len(pack.runs) < 4 else 1.0)
    packs = [(planned.pack.runs[0].arm["model.activation"], planned.pack.seeds) for planned in made.packs]
    assert packs == [
        ("sigmoid", (0, 1)),
        ("sigmoid", (2, 3)),
        ("relu", (0, 1)),
        ("relu", (2, 3)),
        ("relu", (4,)),
        ("relu", (5, 6)),
    ]
    assert plan.Plan.from_json(json.loads(json.dumps(made.to_json())), loaded) == made


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("schedule={name = 'cosine', warmup_epochs = 0.5}", None),
        ("schedule={name = 'cosine', warmup_epochs = 0.1}", "schedule.warmup_epochs: 0.1 is 0 of the 4 steps of this training"),
        (
            "schedule={name = 'cosine', warmup_epochs = 0.9}",
            "is 4 of the 4 steps of this training; allowed: 0, or what makes 1 to 3 of them",
        ),
        ("schedule={name = 'one-cycle', rise = 0.25}", None),
        ("schedule={name = 'one-cycle', rise = 0.2}", "schedule.rise: 0.2 of the 4 steps of this training is less than one"),
        ("augment=[{name = 'cutout', size = 15}, {name = 'crop', padding = 7}]", None),
        ("model.kernel=15", None),
        ("model.kernel=17", "model.kernel: 17 reaches out of images of 8 × 8; allowed: odd, 1 to 15"),
        (
            "model.stem={width = 4, kernel = 1001}",
            "model.stem.kernel: 1001 reaches out of images of 8 × 8; allowed: odd, 1 to 15",
        ),
        ("schedule={name = 'cosine', warmup_epochs = 1}", "1 leaves nothing of a training of 1 epoch; allowed: less than 1"),
        ("averaging={name = 'swa', start_epoch = 5}", "5 comes when a training of 1 epoch is over; allowed: 1 to 1"),
        ("augment=['cutout']", "augment: cutout of 16 pixels hides every image of 8 × 8 whole; allowed: size = 1 to 15"),
        (
            "augment=[{name = 'crop', padding = 100000}]",
            "augment: crop with a padding of 100000 pixels shifts images of 8 × 8 out of sight; allowed: padding = 1 to 7",
        ),
    ],
)
def test_what_never_happens_and_images_of_which_nothing_is_left_are_found_before_training(load, digits, change, expected):
    arm = load(TINY.replace("epochs          = 2\n", ""), changes=["batch_size=25", "epochs=1", change]).arms[0]
    if expected is None:
        check_arm(arm, digits)
    else:
        with pytest.raises(StudyError) as caught:
            check_arm(arm, digits)
        assert expected in str(caught.value)
