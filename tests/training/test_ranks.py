"""fit with several ranks: the numbers of one, whatever is switched on; and what the ranks must agree on."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from distributing import data, furthest, in_ranks, network, same, trained

import dualnet as dn
from dualnet.training import ranks as of_ranks

TAU = 1e-13  # some hundred steps of float64's rounding; without an error in it, differences are below 1e-15


def compare(ranks: int, limit: float = TAU, net=network, **options):
    """Train with one rank and with several: equal within τ, equal on all ranks, equal when done again."""
    alone, expected = trained(False, net(), **options)
    once = in_ranks(ranks, lambda r: trained(r, net(), sync_batch_norm=True, **options))
    again = in_ranks(ranks, lambda r: trained(r, net(), sync_batch_norm=True, **options))
    for history, learned in once + again:
        assert same(learned, once[0][1])
        figures = {name: values for name, values in history.items() if name != "seconds"}
        assert figures == {name: values for name, values in once[0][0].items() if name != "seconds"}
    for history, _ in once:
        assert history == once[0][0]
    assert furthest(once[0][1], expected) < limit
    for name, values in alone.items():
        if name != "seconds":
            np.testing.assert_allclose(once[0][0][name], values, rtol=0, atol=limit)
    return once


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_several_ranks_are_one(ranks):
    compare(ranks)


def test_a_last_batch_with_fewer_examples_than_ranks():
    compare(4, examples=18)  # 16 and 2: two ranks have nothing in the second batch
    compare(4, examples=17, net=lambda: network(norm=False))  # 16 and 1


def test_accumulated_batches():
    compare(3, accumulate=2, batch_size=7, examples=51)


def test_weights_and_ignored_labels():
    x, t = data()
    t = np.where(np.arange(50) % 5 == 0, -1, t)
    weights = np.linspace(0.0, 3.0, 50)
    compare(3, given=(x, t), sample_weight=weights, class_weight={0: 3.0}, ignore_label=-1)


def test_a_rank_whose_examples_all_weigh_nothing():
    x, t = data(16)
    compare(2, given=(x, t), shuffle=False, sample_weight=np.arange(16.0) // 8)


def test_validation_metrics_and_clipping():
    options = {"validation_data": data(30, seed=1), "metrics": ["top2", "f1", lambda y, t: 2.0]}
    for number in (2, 3):
        alone, expected = trained(False, optimizer=dn.SGD(lr=0.1, clip_norm=0.5), **options)
        found = in_ranks(
            number, lambda r: trained(r, sync_batch_norm=True, optimizer=dn.SGD(lr=0.1, clip_norm=0.5), **options)
        )
        assert furthest(found[0][1], expected) < TAU
        for name in ("val_loss", "val_accuracy", "val_top2", "val_f1", "top2", "f1"):
            np.testing.assert_allclose(found[1][0][name], alone[name], rtol=0, atol=TAU)


@pytest.mark.parametrize(
    "augment",
    [
        dn.data.Augment(shift=1),
        [dn.data.Flip(), dn.data.MixUp(0.5)],
        [dn.data.RandomCrop(6, padding=1), dn.data.MixUp(0.5), dn.data.CutMix(1.0)],
    ],
    ids=["moved", "mixed", "mixed twice"],
)
def test_images_are_moved_and_mixed_as_in_the_whole_batch(augment):
    compare(3, augment=augment)
    compare(3, augment=augment, examples=18)  # of the second batch, two examples, a rank has none


class Recorder:
    """A data set that remembers which of its elements were read."""

    def __init__(self, examples: int = 50) -> None:
        self.x, self.t = data(examples)
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int):
        self.read.append(place)
        return self.x[place], self.t[place]


def test_data_sets_batches_and_files_on_disk(tmp_path):
    x, t = data()
    expected = compare(2)[0][1]
    for net_of in (lambda: (Recorder(), None), lambda: (Recorder(), None)):
        found = in_ranks(2, lambda r, given=net_of: trained(r, given=given(), sync_batch_norm=True))
        assert same(found[0][1], expected)
    np.save(tmp_path / "x.npy", x)
    found = in_ranks(
        2, lambda r: trained(r, given=(np.load(tmp_path / "x.npy", mmap_mode="r"), t), sync_batch_norm=True)
    )
    assert same(found[0][1], expected)
    batches = [(x[at : at + 16], t[at : at + 16]) for at in range(0, 50, 16)]
    _, alone = trained(False, given=(batches, None))
    found = in_ranks(2, lambda r: trained(r, given=(batches, None), sync_batch_norm=True))
    assert furthest(found[0][1], alone) < TAU


def test_a_rank_reads_only_its_own_elements():
    class Begin(dn.Callback):
        def __init__(self, recorder):
            self.recorder = recorder

        def on_epoch_begin(self, run):
            self.recorder.read.clear()  # before that, all ranks have looked at the same few

    def read(ranks):
        recorder = Recorder(60)
        trained(ranks, given=(recorder, None), epochs=1, batch_size=20, callbacks=Begin(recorder))
        return recorder.read

    every = in_ranks(3, read)
    assert all(18 <= len(places) <= 21 for places in every)  # 6 or 7 of each batch of 20
    assert sorted(place for places in every for place in places) == list(range(60))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_small_dtypes(dtype):
    history, expected = trained(False, network(dtype, drop=False), epochs=1)
    found = in_ranks(2, lambda r: trained(r, network(dtype, drop=False), epochs=1, sync_batch_norm=True))
    assert same(found[0][1], found[1][1])
    assert furthest(found[0][1], expected) < (1e-5 if dtype == "float32" else 2e-2)


def test_batch_norm_that_is_not_synchronised_is_another_computation():
    _, expected = trained(False, examples=48)
    found = in_ranks(2, lambda r: trained(r, examples=48))
    assert same(found[0][1], found[1][1])  # the running statistics too
    assert furthest(found[0][1], expected) > 1e-4


def test_frozen_layers_and_averaged_weights():
    def once(ranks, **options):
        net = network()
        net[0].freeze()
        return trained(ranks, net, callbacks=dn.callbacks.EMA(0.9), **options)

    _, expected = once(False)
    found = in_ranks(2, lambda r: once(r, sync_batch_norm=True))
    assert furthest(found[0][1], expected) < TAU and same(found[0][1], found[1][1])


def test_several_inputs_and_outputs():
    rng = np.random.default_rng(2)
    x = {"image": rng.normal(size=(18, 6, 6, 2)), "meta": rng.normal(size=(18, 3))}
    t = {"kind": rng.integers(0, 4, 18), "size": rng.normal(size=(18, 1))}
    loss = {"kind": "softmax_cross_entropy", "size": (0.5, "mean_squared_error")}

    def graph():
        net = dn.Graph(inputs=["image", "meta"])
        net.add("flat", dn.Flatten(), "image")
        net.add("joined", dn.Concatenate(), ["flat", "meta"])
        net.add("norm", dn.BatchNorm(), "joined")
        net.add("kind", dn.Dense(4), "norm")
        net.add("size", dn.Dense(1), "norm")
        return net.init({"image": (6, 6, 2), "meta": (3,)}, seed=1, dtype="float64")

    compare(4, net=graph, given=(x, t), loss=loss)  # 16 and 2 examples


def test_everybody_begins_with_the_weights_of_rank_0():
    found = in_ranks(2, lambda r: trained(r, network(seed=3 + r.rank), epochs=0 + 1, sync_batch_norm=True))
    assert same(found[0][1], found[1][1])
    _, expected = trained(False, network(seed=3), epochs=1)
    assert furthest(found[0][1], expected) < TAU


# -- callbacks, files, the end of an epoch -----------------------------------------------------------------------------


def test_files_are_written_by_rank_0_alone(tmp_path):
    def once(ranks):
        folder = tmp_path / str(ranks.rank)
        folder.mkdir()
        trained(
            ranks,
            examples=48,
            callbacks=[dn.callbacks.CSVLogger(folder / "log.csv"), dn.callbacks.ModelCheckpoint(folder / "n")],
        )
        return sorted(path.name for path in folder.iterdir())

    assert in_ranks(2, once) == [["log.csv", "n"], []]


def test_one_rank_stops_all():
    class Stop(dn.Callback):
        def __init__(self, rank, event):
            self.rank, self.event, self.steps = rank, event, []

        def on_batch_end(self, run):
            self.steps.append(run.step)
            run.stop = run.stop or (self.event == "step" and self.rank == 1 and run.step == 3)

        def on_epoch_end(self, run):
            run.stop = run.stop or (self.event == "epoch" and self.rank == 1 and run.epoch == 1)

    def once(ranks, event):
        stop = Stop(ranks.rank, event)
        history, learned = trained(ranks, epochs=5, examples=64, callbacks=stop)
        return stop.steps, history.epochs, learned

    for event, steps, epochs in (("step", [1, 2, 3], 1), ("epoch", list(range(1, 9)), 2)):
        found = in_ranks(2, lambda r, event=event: once(r, event))
        assert [result[:2] for result in found] == [(steps, epochs)] * 2
        assert same(found[0][2], found[1][2])


class Broken(dn.Callback):
    """Ends a training in the middle of an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_batch_end(self, run):
        if run.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_another_number_of_ranks_goes_on_in_the_middle_of_an_epoch(tmp_path, ranks):
    options = {"metrics": ["f1"], "validation_data": data(20, 1), "epochs": 3}
    _, whole = in_ranks(2, lambda r: trained(r, sync_batch_norm=True, **options))[0]
    alone, _ = trained(False, **options)

    def broken(r):
        trained(r, sync_batch_norm=True, resume=tmp_path, checkpoint_every=1, callbacks=Broken(6), **options)

    with pytest.raises(KeyboardInterrupt):
        in_ranks(2, broken)
    if ranks == 1:
        found = [trained(False, resume=tmp_path, checkpoint_every=1, **options)]
    else:
        found = in_ranks(
            ranks, lambda r: trained(r, sync_batch_norm=True, resume=tmp_path, checkpoint_every=1, **options)
        )
    for history, learned in found:
        assert same(learned, whole) if ranks == 2 else furthest(learned, whole) < TAU
        for name in ("loss", "accuracy", "f1", "val_loss", "val_f1"):
            np.testing.assert_allclose(history[name], alone[name], rtol=0, atol=TAU)


def test_evaluate_wants_the_same_weights_on_every_rank():
    """Rank 0 has loaded its best weights, and the others have the last ones: the figures were a mixture of both."""
    x, t = data(30)

    def figures(ranks, change):
        net = network()
        state = {name: np.array(dn.to_numpy(v)) for name, v in net.state_dict().items() if hasattr(v, "shape")}
        if ranks.rank == 1:
            change(state)
            net.load_state_dict(net.state_dict() | state)
        return net.evaluate(x, t, distributed=ranks)

    def trained_longer(state):
        state["0.w"] *= 1.01

    def turned(state):
        state["0.w"] = state["0.w"][::-1]

    def broken(state):
        state["0.w"][0] = np.nan

    def of_another_processor(state):
        state["0.w"] *= 1 + 1e-6

    for change in (trained_longer, turned, broken):
        with pytest.raises(
            ValueError, match=r"evaluate: the ranks do not agree: 0\.w on rank 1 is not what it is on rank 0"
        ):
            in_ranks(2, lambda r, change=change: figures(r, change))
    found = in_ranks(2, lambda r: figures(r, of_another_processor))
    assert found[0] == found[1]


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_equal_weights_may_be_infinite_or_nan(number):
    """Infinity minus infinity is not 0; and whoever differs in a finite number is still noticed."""
    x, t = data(30)

    def figures(ranks, change):
        net = network()
        w = np.array(dn.to_numpy(net.state_dict()["0.w"]))
        w[0] = number
        if ranks.rank == 1:
            w[1:] *= change
        net.load_state_dict(net.state_dict() | {"0.w": w})
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return net.evaluate(x, t, distributed=ranks)

    assert len(in_ranks(2, lambda r: figures(r, 1.0))) == 2
    with pytest.raises(ValueError, match=r"0\.w on rank 1 is not what it is on rank 0"):
        in_ranks(2, lambda r: figures(r, 1.5))


def test_only_the_numbers_that_are_marked_leave_the_device(monkeypatch):
    taken = []
    monkeypatch.setattr(of_ranks, "to_numpy", lambda array: taken.append(array.size) or dn.to_numpy(array))
    of_ranks._marks(dn.asarray(np.ones((100, 3000), "float32")))
    assert taken == [60_000]


def test_evaluate():
    net = network()
    x, t = data(50)
    expected = net.evaluate(x, t, batch_size=9, metrics=["f1"])
    found = in_ranks(4, lambda r: network().evaluate(x, t, batch_size=9, metrics=["f1"], distributed=r))
    for figures in found:
        assert figures == found[0]
        np.testing.assert_allclose(list(figures.values()), list(expected.values()), rtol=0, atol=TAU)


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(change, words):
    """Rank 1 does something else: every rank raises, before the first step, and names it."""
    told = []

    def once(ranks):
        net, options = network(), {}
        if ranks.rank == 1:
            net, options = change(net, options)
        before = {name: v for name, v in net.state_dict().items()}
        try:
            trained(ranks, net, **options)
        except ValueError as error:
            told.append(str(error))
        assert all(net.state_dict()[name] is value for name, value in before.items() if hasattr(value, "shape"))

    in_ranks(2, once)
    assert len(told) == 2 and all(words in text and "rank 1" in text for text in told), told


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda net, o: (net, o | {"seed": 6}), "seed is 6 on rank 1, 5 on rank 0"),
        (lambda net, o: (net, o | {"batch_size": 8}), "batch_size is 8 on rank 1, 16 on rank 0"),
        (lambda net, o: (net, o | {"epochs": 3}), "epochs is 3 on rank 1"),
        (lambda net, o: (net, o | {"shuffle": False}), "shuffle is False on rank 1"),
        (lambda net, o: (net, o | {"sync_batch_norm": True}), "sync_batch_norm is True on rank 1"),
        (lambda net, o: (dn.distributed.sync_batch_norm(net), o), "that are synchronised is ['1', '8'] on rank 1"),
        (lambda net, o: (net, o | {"check_finite": True}), "check_finite is True on rank 1"),
        (lambda net, o: (net, o | {"callbacks": dn.EarlyStopping()}), "callbacks is ['EarlyStopping'] on rank 1"),
        (lambda net, o: (net, o | {"given": data(51)}), "the number of examples of the data is 51 on rank 1"),
        (lambda net, o: (net, o | {"given": data(50, seed=9)}), "a sample of the data is"),
        (lambda net, o: (net, o | {"optimizer": dn.SGD(lr=0.2, momentum=0.9)}), "SGD's lr is 0.2 on rank 1"),
        (lambda net, o: (network(norm=False), o), "layer 1 is"),
        (lambda net, o: (net, o | {"validation_data": data(5)}), "of the validation data is 5 on rank 1"),
    ],
)
def test_a_rank_that_would_do_something_else(change, words):
    refused(change, words)


@pytest.mark.parametrize("place", [25, 49])
def test_data_of_one_rank_that_begin_alike(place):
    """As if its file ended in other examples: the middle and the last are compared, too."""
    x, t = (array.copy() for array in data(50))
    x[place] += 1
    refused(lambda net, o: (net, o | {"given": (x, t)}), "a sample of the data is")


def test_other_versions(monkeypatch):
    from dualnet.training import ranks as module

    real = module.platform.python_version_tuple
    import threading

    monkeypatch.setattr(
        module.platform,
        "python_version_tuple",
        lambda: ("3", "99", "0") if threading.current_thread().name == "rank 1" else real(),
    )
    refused(lambda net, o: (net, o), "Python is 3.99 on rank 1")


def test_a_part_of_one_example_is_too_small_for_a_batch_norm_of_rows():
    with pytest.raises(
        ValueError,
        match=r"with 2 ranks, a batch of 2 examples leaves one rank a single example, but layer 8 \(BatchNorm\)",
    ):
        in_ranks(2, lambda r: trained(r, examples=18))


def test_a_rank_with_fewer_batches():
    x, t = data(32)
    batches = [(x[at : at + 16], t[at : at + 16]) for at in (0, 16)]
    with pytest.raises(dn.distributed.RankError, match="rank 1 has 0 batches for step 2 of this epoch"):
        in_ranks(2, lambda r: trained(r, given=(iter(batches[: 2 - r.rank]), None), steps_per_epoch=None, epochs=1))


def test_capture_and_odd_arguments():
    with pytest.raises(ValueError, match="capture=True works with one rank only"):
        in_ranks(2, lambda r: trained(r, capture=True))
    with pytest.raises(TypeError, match="distributed must be True, False or what"):
        trained(3)
    history, learned = trained(True)  # no launcher: one rank
    assert same(learned, trained(False)[1])


def test_an_error_of_one_rank_ends_the_others():
    ended = []

    def once(ranks):
        x, t = data()
        if ranks.rank == 1:
            t = t * 0.5
        try:
            trained(ranks, given=(x, t))
        except dn.distributed.RankError as error:
            ended.append(str(error))
            raise

    with pytest.raises(ValueError, match="labels must be integers"):
        in_ranks(2, once)
    assert len(ended) == 1 and ended[0].startswith("rank 1: ValueError: fit: the loss does not take")


@pytest.mark.filterwarnings("ignore:fit. x holds NaN")
def test_check_finite_names_the_rank():
    x, t = data(32)
    x[29] = np.nan

    def once(ranks):
        net = network(norm=False)
        try:
            trained(ranks, net, given=(x, t), shuffle=False, check_finite=True)
        except FloatingPointError as error:
            return str(error)

    found = in_ranks(2, once)
    assert found[0] == found[1]
    assert "epoch 1, batch 2: Rank 1: the batch of inputs x holds 72 NaN" in found[0] and "Rank 0" not in found[0]


def test_loss_scale_skips_the_step_on_all_ranks():
    def once(ranks):
        return trained(ranks, network("float16", norm=False, drop=False), loss_scale=dn.LossScale(2.0**24), epochs=1)

    found = in_ranks(2, once)
    assert same(found[0][1], found[1][1])
