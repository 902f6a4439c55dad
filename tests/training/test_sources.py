"""Lists, loaders, generators, functions and data sets train like arrays, and an error names the number of the bad
batch."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from bars import bars, small

import dualnet as dn
from dualnet.training.sources import Arrays, Batches, Examples, is_data_set, source

X, T = bars(40)


def trained(x=X, t=None, *, epochs=2, **options):
    """The weights after a training, as bytes, and the history without its seconds."""
    net = small()
    history = net.fit(x, t, epochs=epochs, optimizer=dn.SGD(lr=0.05), verbose=0, **options)
    weights = {name: np.array(dn.to_numpy(v) if hasattr(v, "shape") else v) for name, v in net.state_dict().items()}
    return {n: w.tobytes() for n, w in weights.items()}, {n: v for n, v in history.items() if n != "seconds"}


def cut(size=8):
    return [(X[i : i + size], T[i : i + size]) for i in range(0, len(X), size)]


class Loader:
    """What a data loader is: something with a length that can be iterated anew."""

    def __init__(self, form=tuple):
        self.form, self.begun = form, 0

    def __len__(self):
        return 5

    def __iter__(self):
        self.begun += 1
        return (self.form(batch) for batch in cut())


class DataSet:
    """What a data set is: an example for a number."""

    def __init__(self, form=lambda x, t: (x, t), bad=None, told=None):
        self.form, self.bad, self.told, self.threads = form, bad, told, set()

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        self.threads.add(threading.current_thread().name)
        if i == self.bad:
            if isinstance(self.told, Exception):
                raise self.told
            return self.told
        return self.form(X[i], int(T[i]))


FORMS = {
    "a list": lambda: (cut(), {}),
    "a loader": lambda: (Loader(), {}),
    "lists as batches": lambda: (Loader(list), {}),
    "dictionaries": lambda: ([{"image": x, "label": t} for x, t in cut()], {}),
    "a function": lambda: (lambda: iter(cut()), {}),
    "a function that returns a loader": lambda: (Loader, {}),
    "an endless generator": lambda: ((batch for _ in iter(int, 1) for batch in cut()), {"steps_per_epoch": 5}),
    "nested lists": lambda: ([(x.tolist(), t.tolist()) for x, t in cut()], {}),
    "arrays on the device": lambda: ([(dn.asarray(x), dn.asarray(t)) for x, t in cut()], {}),
}


@pytest.mark.parametrize("name", FORMS)
def test_batches_in_any_form_train_as_arrays_do(backend, name):
    given, options = FORMS[name]()
    if name == "a function that returns a loader":
        given = lambda: Loader()  # noqa: E731  (a class alone may be a mistake)
    assert trained(given, **options) == trained(X, T, batch_size=8, shuffle=False)


@pytest.mark.parametrize(
    "form",
    [
        lambda x, t: (x, t),
        lambda x, t: {"pixel_values": x, "labels": t},
        lambda x, t: {"img": x.tolist(), "fine_label": np.int64(t), "coarse_label": 0},
        lambda x, t: [x, np.array(t)],
    ],
)
def test_a_data_set_is_shuffled_and_cut_as_arrays_are(backend, form):
    assert trained(DataSet(form), batch_size=7) == trained(X, T, batch_size=7)
    assert trained(DataSet(form), batch_size=7, seed=3) == trained(X, T, batch_size=7, seed=3)


def test_a_data_set_is_augmented_as_arrays_are(backend):
    options = {"augment": dn.data.Augment(1), "batch_size": 7}
    x, t = np.round(X.clip(0, 1) * 255).astype("uint8"), T
    pairs = DataSet()
    pairs.form = lambda *example: example
    pairs.__class__ = type("Bytes", (DataSet,), {"__getitem__": lambda self, i: (x[i], t[i])})
    assert trained(pairs, **options) == trained(x, t, **options) != trained(x, t, batch_size=7)


def test_a_loader_that_cannot_be_augmented_says_so():
    with pytest.raises(ValueError, match="augment works with arrays and with data sets that have a length"):
        trained(cut(), augment=dn.data.Augment(1))


@pytest.mark.parametrize("given", [DataSet, Loader])
def test_a_thread_prepares_batches_and_changes_no_bit(given, monkeypatch):
    begun = []
    plain = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: begun.append(self.name) or plain(self))
    ahead = trained(given(), batch_size=8)
    assert any(name.startswith("dualnet-batches") for name in begun)
    for kind in (Batches, Examples):
        epoch = kind.epoch
        monkeypatch.setattr(kind, "epoch", lambda *a, epoch=epoch, **o: epoch(*a, **o | {"ahead": False}))
    begun.clear()
    assert trained(given(), batch_size=8) == ahead and begun == []
    trained(X, T)
    assert begun == []  # arrays need none


def test_validation_evaluation_and_prediction_take_the_same(backend):
    net = small()
    expected = net.evaluate(X, T)
    outputs = net.predict(X)
    for given in (cut(), Loader(), DataSet(), lambda: iter(cut()), iter(cut())):
        assert net.evaluate(given) == pytest.approx(expected, rel=1e-12)
    for given in (cut(), Loader(), DataSet(), lambda: iter(cut()), iter(cut()), iter([x for x, _ in cut()])):
        np.testing.assert_allclose(net.predict(given), outputs, rtol=1e-4, atol=1e-6)
    for held_out in ((X, T), cut(), Loader(), DataSet(), lambda: iter(cut())):
        _, history = trained(X, T, validation_data=held_out)
        assert history["val_loss"] == pytest.approx(trained(X, T, validation_data=(X, T))[1]["val_loss"], rel=1e-12)


def test_torch_loaders_and_data_sets(backend):
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(T))
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    assert trained(loader) == trained(X, T, batch_size=8, shuffle=False)
    assert trained(data, batch_size=8) == trained(X, T, batch_size=8)
    net = small()
    assert net.evaluate(loader) == pytest.approx(net.evaluate(X, T))
    first = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.tensor(X.repeat(3, axis=3)).permute(0, 3, 1, 2), torch.tensor(T))
    )
    fresh = dn.Sequential([dn.Conv2D(4, 3), dn.Flatten(), dn.Dense(2)])
    with pytest.raises(ValueError, match=r"with the channels first.*x.permute\(1, 2, 0\)\) after ToTensor"):
        fresh.fit(first, verbose=0)
    assert fresh.input_shape is None
    with pytest.raises(ValueError, match=r"with the channels first.*\(N, H, W, C\): x.permute\(0, 2, 3, 1\)"):
        fresh.fit(torch.tensor(X.repeat(3, axis=3)).permute(0, 3, 1, 2), torch.tensor(T), verbose=0)
    turned = lambda: ((x.permute(0, 2, 3, 1), t) for x, t in first)  # noqa: E731  (as the message says)
    assert fresh.fit(turned, verbose=0).epochs == 1


def test_pictures_of_pillow():
    image = pytest.importorskip("PIL.Image")
    grey = (X * 100 + 100).clip(0, 255).astype("uint8")
    pictures = type("Pictures", (DataSet,), {"__getitem__": lambda self, i: (image.fromarray(grey[i, :, :, 0]), T[i])})
    normalise = {"augment": dn.data.Augment(0, False)}
    assert trained(pictures(), **normalise) == trained(grey, T, **normalise)
    palette = type(
        "P", (DataSet,), {"__getitem__": lambda self, i: (image.fromarray(grey[i, :, :, 0]).convert("P"), 0)}
    )
    with pytest.raises(ValueError, match=r'element 0 of the data set: the image has mode \'P\'.*convert\("RGB"\)'):
        trained(palette())


# -- how long an epoch is ----------------------------------------------------------------------------------------------


def test_an_epoch_of_an_iterator_goes_on_where_the_last_one_ended():
    seen = []

    def endless():
        while True:
            for batch in cut():
                seen.append(batch)
                yield batch

    _, history = trained(endless(), epochs=3, steps_per_epoch=2)
    assert len(history["loss"]) == 3 and len(seen) == 6  # not one batch more than was trained with


def test_a_loader_begins_anew_in_every_epoch():
    loader = Loader()
    trained(loader, epochs=3, steps_per_epoch=2)
    assert loader.begun == 3


def test_an_iterator_that_ends_is_told_before_the_first_step_or_where_it_ends():
    with pytest.raises(
        ValueError, match="a generator yields its batches only once, but there are 2 epochs.*lambda: batches"
    ):
        trained(batch for batch in cut())
    assert len(trained((batch for batch in cut()), epochs=1)[1]["loss"]) == 1
    with pytest.raises(
        ValueError, match="epoch 2: a generator yielded 2 batches of the 3 that steps_per_epoch asks for.*ex"
    ):
        trained((batch for batch in cut()), steps_per_epoch=3)
    with pytest.raises(ValueError, match="steps_per_epoch=6, but a list holds only 5 batches"):
        trained(cut(), steps_per_epoch=6)
    with pytest.raises(ValueError, match="a list yielded no batches"):
        trained([])
    with pytest.raises(ValueError, match="resume has to begin a generator again, which is impossible"):
        trained((batch for batch in cut()), epochs=1, resume="nowhere")


def test_the_length_is_known_or_not():
    net, steps = small(), []
    for given in (cut(), Loader(), lambda: iter(cut())):
        net.fit(given, callbacks=lambda run: steps.append((run.steps_per_epoch, run.step)), verbose=0)
    assert steps == [(5, 5), (5, 5), (0, 5)]


@pytest.mark.parametrize("given", [cut, Loader, DataSet, lambda: lambda: iter(cut())])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "class_weight": {1: 3.0}, "metrics": ["f1"]}])
def test_a_training_goes_on_in_the_middle_of_an_epoch(backend, tmp_path, given, options):
    def interrupt(run):
        if run.step == 4:
            raise KeyboardInterrupt

    hook = dn.Callback()
    hook.on_batch_end = interrupt
    options = {"epochs": 3, "batch_size": 8, "validation_data": given()} | options
    whole = trained(given(), **options)
    with pytest.raises(KeyboardInterrupt):
        trained(given(), resume=tmp_path, checkpoint_every=1, callbacks=hook, **options)
    assert trained(given(), resume=tmp_path, checkpoint_every=1, **options) == whole


# -- mistakes ----------------------------------------------------------------------------------------------------------


def broken(place, change):
    batches = cut()
    batches[place] = change(*batches[place])
    return batches


MISTAKES = [
    (lambda: (X, T), "got one tuple of 2 arrays; pass x and t separately"),
    (lambda: {"image": X, "label": T}, r"got a dictionary with the keys 'image', 'label'; pass x and t: d\["),
    (
        lambda: {"train": DataSet()},
        r"got a dictionary with the keys 'train'; pass one of its data sets, such as d\['train'\]",
    ),
    (lambda: "photos", "got the text 'photos'"),
    (lambda: 5, "got 5; expected arrays x and t, batches"),
    (lambda: Loader, "got <class .*Loader.>; expected arrays x and t"),
    (lambda: [X, T], "got one list of 2 arrays"),
    (lambda: [(X[0], 1), (X[1], 0)], "batch 1: x has shape .6, 6, 1. and t is one number, like a single example"),
    (lambda: [(X,)], r"batch 1: a batch must be \(x, t\), \(x, t, weights\) or a dictionary; got a tuple of 1"),
    (lambda: [{"scan": X, "label": T}], "batch 1: expected one of the keys 'x', 'image', .* has 'scan', 'label'"),
    (lambda: [{"x": X, "label": T, "y": T}], "batch 1: expected one of the keys 't', .* has 'x', 'label', 'y'"),
    (lambda: [({"image": X}, T)], "batch 1: x of a batch is a dictionary; networks with several inputs or outputs"),
    (lambda: broken(0, lambda x, t: (x, t[:3])), "batch 1: x holds 8 examples and t 3"),
    (lambda: broken(0, lambda x, t: (x, t + 1)), "label 2 is out of range"),
    (lambda: DataSet(bad=0, told=None), "element 0 of the data set: an example must be .x, t.*got a NoneType"),
    (lambda: DataSet(bad=0, told=(X[0], "cat")), "element 0 of the data set: asarray: dtype <U3"),
    (lambda: type("Empty", (DataSet,), {"__len__": lambda self: 0})(), "the data set holds no examples"),
]


@pytest.mark.parametrize("given, words", MISTAKES, ids=[words[:40] for _, words in MISTAKES])
def test_what_can_be_seen_before_the_first_step_changes_nothing(given, words):
    net, begun = small(), []
    callback = dn.Callback()
    callback.on_fit_begin = begun.append
    with pytest.raises((ValueError, TypeError), match=f"^fit: .*{words}"):
        net.fit(given(), callbacks=callback, verbose=0)
    assert begun == []


LATER = [
    (lambda: broken(2, lambda x, t: (x, t + 1)), ValueError, "batch 3: label 2 is out of range"),
    (lambda: broken(2, lambda x, t: (x[:, :5], t)), ValueError, "batch 3: x has shape .8, 5, 6, 1., but init"),
    (lambda: broken(2, lambda x, t: (x, t[:, None])), ValueError, "batch 3: t is int64 of shape .8, 1.; before"),
    (lambda: broken(2, lambda x, t: (x, t * 0.5)), ValueError, "batch 3: t is float64"),
    (lambda: broken(2, lambda x, t: None), TypeError, "batch 3: a batch must be"),
    (lambda: DataSet(bad=17, told=(X[0], 5)), ValueError, "element 17 of the data set: label 5 is out of range"),
    (lambda: DataSet(bad=17, told=(X[0][:5], 0)), ValueError, "element 17 of the data set: its x is float32 of shape"),
    (lambda: DataSet(bad=17, told=(None, 0)), TypeError, "element 17 of the data set: x of an example is None"),
    (lambda: DataSet(bad=17, told=OSError("no disk")), RuntimeError, "element 17 of the data set: OSError: no disk"),
]


@pytest.mark.parametrize("given, error, words", LATER, ids=[words[:50] for *_, words in LATER])
def test_what_comes_later_is_told_by_its_number(backend, given, error, words):
    ended = []
    callback = dn.Callback()
    callback.on_fit_end = lambda run: ended.append(run.step)
    with pytest.raises(error, match=f"^fit: {words}"):
        small().fit(given(), batch_size=8, callbacks=callback, verbose=0)
    assert ended and not [thread for thread in threading.enumerate() if thread.name.startswith("dualnet-batches")]


def test_arrays_alone_lack_their_targets():
    for x in (X, X.tolist()):
        with pytest.raises(TypeError, match="fit: x is an array, but its targets t are missing"):
            small().fit(x, verbose=0)
    with pytest.raises(ValueError, match="steps_per_epoch is for ready-made batches"):
        small().fit(X, T, steps_per_epoch=3, verbose=0)
    with pytest.raises(ValueError, match="sample_weight is for arrays x and t; yield .x, t, weights. instead"):
        small().fit(cut(), sample_weight=np.ones(40), verbose=0)


def test_images_that_nobody_scaled_are_warned_of(rng):
    x, t = rng.integers(0, 256, (16, 6, 6, 1)).astype("uint8"), np.arange(16) % 2
    net = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Flatten(), dn.Dense(2)])
    with pytest.warns(UserWarning, match="x holds whole numbers up to") as caught:
        net.fit([(x, t)], verbose=0)
    assert [warning.filename for warning in caught] == [__file__]


def test_which_source_it_is():
    kinds = [type(source("fit", *given)) for given in ((X, T), (cut(),), (DataSet(),), (iter(cut()),), (Loader(),))]
    assert kinds == [Arrays, Batches, Examples, Batches, Batches] and not is_data_set(Loader())
