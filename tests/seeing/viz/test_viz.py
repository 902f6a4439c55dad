"""dn.viz: pictures show what was computed, on the given axes, with nothing cut off or left behind."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import dualnet as dn

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

from dualnet.seeing.viz import attention, landscape  # noqa: E402


@pytest.fixture(autouse=True)
def no_figure_is_left():
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture
def seen(rng):
    """A network, images (3, 8, 8, 2) and classes."""
    layers = [dn.Conv2D(6, 3), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2), dn.Conv2D(5, 2), dn.ReLU()]
    net = dn.Sequential([*layers, dn.Flatten(), dn.Dense(4)]).init((8, 8, 2), dtype="float64")
    x = dn.asarray(rng.standard_normal((3, 8, 8, 2)))
    net.forward(x, train=True)  # running statistics that are not 0 and 1
    return net, x, np.array([1, 0, 3])


def history(epochs=3):
    values = [1.0 / (i + 1) for i in range(epochs)]
    return dn.History(loss=values, accuracy=values[::-1], val_loss=values, val_accuracy=values[::-1], seconds=values)


def drawn(ax):
    """The values of the image on an Axes."""
    return np.ma.filled(ax.images[0].get_array(), np.nan)


CALLS = {
    "filters": lambda net, x, t, **o: dn.viz.filters(net, **o),
    "feature_maps": lambda net, x, t, **o: dn.viz.feature_maps(net, x[:1], **o),
    "deltas": lambda net, x, t, **o: dn.viz.deltas(net, x[:1], t[:1], **o),
    "confusion_matrix": lambda net, x, t, **o: dn.viz.confusion_matrix(t, net(x), **o),
    "saliency": lambda net, x, t, **o: dn.viz.saliency(net, x[:1], **o),
    "grad_cam": lambda net, x, t, **o: dn.viz.grad_cam(net, x[:1], **o),
    "loss_landscape": lambda net, x, t, **o: dn.viz.loss_landscape(net, x, t, points=3, **o),
    "contours": lambda net, x, t, **o: dn.viz.loss_landscape(net, x, t, points=3, directions=2, **o),
}
PANELS = {
    "augmented": lambda net, x, t, **o: dn.viz.augmented(abs(x), [dn.data.Flip()], count=2, **o),
    "learning_curves": lambda net, x, t, **o: dn.viz.learning_curves(history(), **o),
    "misclassified": lambda net, x, t, **o: dn.viz.misclassified(x, t, (t + 1) % 4, **o),
    "saliency": lambda net, x, t, **o: dn.viz.saliency(net, x, **o),
    "grad_cam": lambda net, x, t, **o: dn.viz.grad_cam(net, x, t, classes=list("abcd"), **o),
}

# -- what all have in common -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_one_panel_goes_where_it_is_told(backend, seen, call):
    figure, (left, right) = plt.subplots(1, 2)
    assert call(*seen, ax=right) is right and right.has_data() and not left.has_data()
    assert plt.get_fignums() == [figure.number], "no figure of its own"
    made = call(*seen)
    made = made.ravel()[0] if isinstance(made, np.ndarray) else made
    assert len(plt.get_fignums()) == 2 and made.get_title()
    with pytest.raises(TypeError, match="Axes"):
        call(*seen, ax=3)


@pytest.mark.parametrize("call", PANELS.values(), ids=PANELS)
def test_several_panels_go_where_they_are_told(backend, seen, call):
    figure, axes = plt.subplots(2, 2)
    made = call(*seen, axes=axes)
    assert isinstance(made, np.ndarray) and list(made) == list(axes.ravel()[: len(made)]) and made[0].has_data()
    assert plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match="panels do not fit on 1 Axes"):
        call(*seen, axes=axes[:1, :1])
    assert isinstance(call(*seen), np.ndarray) and len(plt.get_fignums()) == 2


@pytest.mark.parametrize("call", [*CALLS.values(), *PANELS.values()], ids=[*CALLS, *(f"{name}s" for name in PANELS)])
def test_nothing_is_cut_off(seen, call):
    made = call(*seen)
    figure = np.ravel(made)[0].figure
    figure.canvas.draw()
    width, height = figure.bbox.size
    texts = [t for ax in figure.axes for t in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts) if t.get_text()]
    assert texts
    for text in texts:
        box = text.get_window_extent()
        assert -1 <= box.x0 and box.x1 <= width + 1 and -1 <= box.y0 and box.y1 <= height + 1, text


def test_the_network_is_as_before(backend, seen):
    net, x, t = seen
    before = {name: dn.to_numpy(value).tobytes() for name, value in net.state_dict().items()}
    attributes = [{k: id(v) for k, v in vars(layer).items()} for _, layer in net.walk()]
    for call in [*CALLS.values(), *PANELS.values()]:
        call(net, x, t)
        plt.close("all")
    dn.viz.loss_landscape(net, x, t, directions="gradient", points=3)
    assert before == {name: dn.to_numpy(value).tobytes() for name, value in net.state_dict().items()}
    assert attributes == [{k: id(v) for k, v in vars(layer).items()} for _, layer in net.walk()]


def test_matplotlib_comes_when_it_is_needed_and_is_missed_in_words():
    code = """
import sys, dualnet as dn
dn.viz
assert "matplotlib" not in sys.modules and "dualnet.viz" in sys.modules
sys.modules["matplotlib"] = None
for call in (lambda: dn.viz.filters(dn.Conv2D(2, 3).init((4, 4, 1))), lambda: dn.viz.learning_curves({"loss": [1.0]})):
    try:
        call()
    except ImportError as error:
        assert 'pip install "dualnet[plot]"' in str(error), error
    else:
        raise SystemExit("drawn without matplotlib")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


# -- augmentation ------------------------------------------------------------------------------------------------------


def test_augmented_images_are_those_of_the_batch(backend, rng):
    images = rng.integers(0, 256, (3, 6, 5, 3), "uint8")
    changes = [dn.data.RandomCrop(6, padding=1), dn.data.MixUp(1.0)]
    panels = dn.viz.augmented(dn.asarray(images), [*changes, dn.data.Normalise(0.4, [0.2, 0.3, 0.4])], count=4, seed=7)
    augment = dn.data.augmentation(changes)
    y = augment.batch(images, [0, 1, 0, 2, 0, 1, 0, 2], augment.moves(8, seed=7))[::2]  # mixed with the other two
    assert [ax.get_title() for ax in panels] == ["given", "1", "2", "3", "4"]
    assert np.array_equal(drawn(panels[0]), images[0] / 255)
    for ax, picture in zip(panels[1:], y):
        assert np.abs(drawn(ax) - picture).max() < 1e-6


def test_an_image_alone_is_mixed_with_itself():
    image = np.full((4, 4, 1), 0.25)
    for ax in dn.viz.augmented(image, [dn.data.CutMix(1.0)], count=3):
        assert np.array_equal(drawn(ax), np.full((4, 4), 0.25))
    scaled = dn.viz.augmented(image, dn.data.Augment(0, mean=0.5, scale=4.0), count=1)[1]
    assert np.abs(drawn(scaled) - 0.25).max() < 1e-6
    with pytest.raises(TypeError, match=r"viz.augmented: augment is None; expected a list"):
        dn.viz.augmented(image, None)


# -- maps --------------------------------------------------------------------------------------------------------------


def tiles(sheet, rows, columns):
    """The maps of a mosaic: the parts between the lines that are empty."""
    kept = sheet[~np.isnan(sheet).all(axis=1)][:, ~np.isnan(sheet).all(axis=0)]
    h, w = kept.shape[0] // rows, kept.shape[1] // columns
    return [kept[i * h : (i + 1) * h, j * w : (j + 1) * w] for i in range(rows) for j in range(columns)]


def test_filters_are_the_weights(backend, seen):
    net = seen[0]
    w = dn.to_numpy(net[0].w.value)  # (3, 3, 2, 6)
    ax = dn.viz.filters(net, "0")
    assert ax.get_title() == "0 Conv2D: 6 filters, 2 channels, 3 × 3"
    for k, tile in enumerate(tiles(drawn(ax), 6, 2)):
        assert np.array_equal(tile[::4, ::4], w[:, :, k % 2, k // 2]), (
            "a row for each filter, a column for each channel"
        )
    low, high = ax.images[0].get_clim()
    assert low == -high and high == np.abs(w).max(), "0 is in the middle"
    ax = dn.viz.filters(net, net[4], channel=3)
    bank = dn.to_numpy(net[4].w.value)[:, :, 3]
    assert all(np.array_equal(tile[::6, ::6], bank[:, :, k]) for k, tile in enumerate(tiles(drawn(ax), 2, 3)[:5]))


def test_filters_on_three_channels_are_colours():
    net = dn.Conv2D(4, 3).init((8, 8, 3))
    w, ax = dn.to_numpy(net.w.value), dn.viz.filters(net)
    sheet = drawn(ax)
    top = np.abs(w).max()
    assert sheet.shape[2] == 4 and np.allclose(sheet[0, 0, :3], 0.5 + w[0, 0, :, 0] / (2 * top))
    assert set(np.unique(sheet[..., 3])) == {0.0, 1.0}, "the gaps are empty"
    assert "3 of 4 filters" in dn.viz.filters(net, limit=3).get_title()


def test_feature_maps_are_what_the_layer_gives(backend, seen):
    net, x, _ = seen
    y = x[:1]
    for layer in net.layers[:3]:
        y, _ = layer.forward(y)
    ax = dn.viz.feature_maps(net, x[:1], "2")
    maps = dn.to_numpy(y)[0]
    for k, tile in enumerate(tiles(drawn(ax), 2, 3)):
        assert np.array_equal(tile[::2, ::2], maps[:, :, k])
    both = dn.viz.feature_maps(net, x[0])  # an image without a batch; values of both signs
    for picture, (image,) in ((ax, ax.images), (both, both.images)):
        low, high = image.get_clim()
        assert image.cmap.name == "dualnet" and low == -high, picture.get_title()
    bar = ax.images[0].colorbar.ax
    assert bar.get_ylim() == (0.0, maps.max()) and both.images[0].colorbar.ax.get_ylim()[0] < 0


def test_deltas_are_the_gradient_of_the_loss(backend, seen):
    """By central differences: the slope of the loss of the rest of the network, for one unit of the layer's output."""
    net, x, t = seen
    ax = dn.viz.deltas(net, x[:1], t[:1], "3")
    y = x[:1]
    for layer in net.layers[:4]:
        y, _ = layer.forward(y)
    y = dn.to_numpy(y)

    def loss(value):
        value = dn.asarray(value)
        for layer in net.layers[4:]:
            value, _ = layer.forward(value)
        return float(dn.to_numpy(dn.losses.softmax_cross_entropy(value, dn.asarray(t[:1]))[0]))

    found = np.array(tiles(drawn(ax), 2, 3))[:, ::4, ::4]
    for place in ((0, 1, 2, 5), (0, 0, 0, 0), (0, 2, 1, 3)):
        step = np.zeros_like(y)
        step[place] = 1e-6
        slope = (loss(y + step) - loss(y - step)) / 2e-6
        assert found[place[3], place[1], place[2]] == pytest.approx(slope, abs=1e-8)


# -- where a network looks ---------------------------------------------------------------------------------------------


def test_saliency_is_the_slope_of_the_score(backend, seen):
    net, x, t = seen
    found, classes = attention.saliency_map(net, x, t)
    assert classes.tolist() == t.tolist() and found.shape == (3, 8, 8)
    x = dn.to_numpy(x)
    for n, i, j in ((0, 3, 4), (1, 0, 0), (2, 7, 2)):
        slopes = []
        for channel in range(2):
            step = np.zeros_like(x)
            step[n, i, j, channel] = 1e-6
            up, down = (dn.to_numpy(net(dn.asarray(x + s * step)))[n, t[n]] for s in (1, -1))
            slopes.append(abs(up - down) / 2e-6)
        assert found[n, i, j] == pytest.approx(max(slopes), abs=1e-7)
    axes = dn.viz.saliency(net, dn.asarray(x), t)
    assert np.allclose(axes[1].images[1].get_array(), found[1] / found[1].max())
    assert axes[2].get_title() == "saliency for 3"


def test_grad_cam_is_equation_1_and_2(backend, seen):
    """The weights α by central differences of the rest of the network, the map by a plain sum."""
    net, x, t = seen
    found, _ = attention.class_activation(net, x, t)
    A = x
    for layer in net.layers[:6]:
        A, _ = layer.forward(A)
    A = dn.to_numpy(A)  # (3, 2, 2, 5)

    def scores(value):
        value = dn.asarray(value)
        for layer in net.layers[6:]:
            value, _ = layer.forward(value)
        return dn.to_numpy(value)

    for n in range(3):
        total = np.zeros(A.shape[1:3])
        for k in range(5):
            slopes = []
            for i, j in np.ndindex(*A.shape[1:3]):
                step = np.zeros_like(A)
                step[n, i, j, k] = 1e-5
                slopes.append((scores(A + step)[n, t[n]] - scores(A - step)[n, t[n]]) / 2e-5)
            total += np.mean(slopes) * A[n, :, :, k]
        assert np.allclose(found[n], np.maximum(0, total), atol=1e-9)


def test_grad_cam_takes_the_last_maps_or_the_layer_that_is_named(seen):
    net, x, t = seen
    shapes = {layer: attention.class_activation(net, x, t, layer)[0].shape for layer in (None, "0", net[4])}
    assert shapes == {None: (3, 2, 2), "0": (3, 6, 6), net[4]: (3, 2, 2)}
    pooled = dn.models.lenet5().init((28, 28, 1))
    images = np.random.default_rng(0).standard_normal((1, 28, 28, 1))
    assert attention.class_activation(pooled, dn.asarray(images, "float32"))[0].shape == (1, 10, 10), (
        "before the pooling"
    )
    blocks = dn.models.resnet20().init((32, 32, 3))
    images = np.random.default_rng(0).standard_normal((1, 32, 32, 3))
    assert attention.class_activation(blocks, dn.asarray(images, "float32"))[0].shape == (1, 8, 8)


def test_the_class_defaults_to_the_answer(seen):
    net, x, _ = seen
    said = dn.to_numpy(net(x)).argmax(axis=-1)
    assert attention.saliency_map(net, x)[1].tolist() == said.tolist()
    assert dn.viz.saliency(net, x[0]).get_title() == f"saliency for {said[0]}", "one image, one Axes"


# -- what came out -----------------------------------------------------------------------------------------------------


def test_learning_curves_are_the_history():
    loss, accuracy = dn.viz.learning_curves(history())
    lines = {line.get_label(): line for line in accuracy.lines}
    assert lines["training"].get_ydata().tolist() == history()["accuracy"]
    assert lines["validation"].get_xdata().tolist() == [1, 2, 3] and lines["validation"].get_linestyle() == "--"
    assert lines["_best"].get_xdata()[0] == 3 and loss.lines[-1].get_xdata()[0] == 3
    several = dn.viz.learning_curves({"adam": history(), "sgd": history(2)})
    assert [text.get_text() for text in several[0].get_legend().get_texts()][::3] == [
        "adam, training",
        "sgd, validation",
    ]
    assert len(dn.viz.learning_curves({"loss": [1.0]})) == 1, "a plain dictionary"


def test_every_figure_of_the_validation_is_drawn():
    seen = dn.History(
        loss=[2.0, 1.0], kappa=[0.1, 0.2], val_kappa=[0.3, 0.2], val_recall=[0.5, 0.4], seconds=[1.0, 1.0]
    )
    loss, kappa, recall = dn.viz.learning_curves(seen)
    assert [ax.get_ylabel() for ax in (loss, kappa, recall)] == ["loss", "kappa", "recall"]
    assert recall.lines[0].get_ydata().tolist() == [0.5, 0.4] and recall.lines[0].get_linestyle() == "--"
    assert [line.get_label() for line in kappa.lines] == ["training", "validation"], "no dot: is it to grow?"


def test_a_confusion_matrix_counts(backend):
    t, said = dn.asarray([0, 0, 0, 1, 1, 2]), [0, 0, 1, 1, 1, 0]
    ax = dn.viz.confusion_matrix(t, said)
    assert np.allclose(drawn(ax), [[2 / 3, 1 / 3, 0], [0, 1, 0], [1, 0, 0]])
    assert {(int(x.get_position()[1]), int(x.get_position()[0])): x.get_text() for x in ax.texts} == {
        (0, 0): "2", (0, 1): "1", (1, 1): "2", (2, 0): "1",
    }  # fmt: skip
    assert ax.get_title() == "4 of 6 right (66.7 %)" and ax.get_ylabel() == "right answer"
    shares = dn.viz.confusion_matrix(
        t, dn.asarray(np.eye(3, dtype="float32")[said]), normalize=True, classes=list("abc")
    )
    assert [x.get_text() for x in shares.texts] == ["0.67", "0.33", "1.00", "1.00"]
    assert [x.get_text() for x in shares.get_xticklabels()] == ["a", "b", "c"]


def test_mistakes_are_shown_the_surest_first(rng):
    x = rng.standard_normal((4, 5, 5, 3))
    scores = np.array([[0, 1.0, 0], [3, 0, 0], [0, 9, 0], [0, 0, 1.0]])
    axes = dn.viz.misclassified(x, [0, 0, 0, 2], scores, classes=["cat", "dog", "cow"])
    assert [ax.get_title() for ax in axes] == ["cat, taken for dog (100 %)", "cat, taken for dog (58 %)"]
    picture = axes[0].images[0].get_array()
    assert picture.shape == (5, 5, 3) and np.allclose(picture, (x[2] - x[2].min()) / np.ptp(x[2]))
    assert len(dn.viz.misclassified(x, [0, 0, 0, 2], scores, limit=1)) == 1
    (ax,) = dn.viz.misclassified(x, [1, 0, 1, 2], scores)
    assert ax.texts[0].get_text() == "all 4 right"


# -- the landscape -----------------------------------------------------------------------------------------------------


def test_the_landscape_is_the_loss_of_moved_weights(backend, seen):
    net, x, t = seen
    steps, values = landscape.landscape(net, x, t, 1, 0.5, 5, None, seed=3)
    rng, twin = np.random.default_rng(3), net.copy()
    start = {name: dn.to_numpy(p.value) for name, p in net.parameters().items()}
    way = {name: rng.standard_normal(w.shape) for name, w in start.items()}
    for k, a in enumerate(steps):
        for name, parameter in twin.parameters().items():
            w, d = start[name].copy(), way[name]
            if w.ndim > 1:
                for f in range(w.shape[-1]):  # filter by filter: d_f · ‖w_f‖ / ‖d_f‖
                    w[..., f] += a * d[..., f] * np.linalg.norm(start[name][..., f]) / np.linalg.norm(d[..., f])
            parameter.value = dn.asarray(w)
        loss = float(dn.to_numpy(dn.losses.softmax_cross_entropy(twin(x), dn.asarray(t))[0]))
        assert values[k] == pytest.approx(loss, rel=1e-9)
    _, both = landscape.landscape(net, x, t, 2, 0.5, 5, None, seed=3)
    assert both.shape == (5, 5) and np.allclose(both[2], values), "the same first direction, where the second is 0"


def test_down_the_gradient_the_slope_is_its_length(backend, seen):
    net, x, t = seen
    steps, values = landscape.landscape(net, x, t, "gradient", 1e-6, 3, None, seed=0)
    y, pullback = net.forward(x)
    _, grads = pullback(dn.losses.softmax_cross_entropy(y, dn.asarray(t))[1]())
    length = np.sqrt(sum((dn.to_numpy(g) ** 2).sum() for g in grads.values()))
    weights = np.sqrt(sum((dn.to_numpy(p.value) ** 2).sum() for p in net.parameters().values()))
    assert (values[2] - values[0]) / (steps[2] - steps[0]) == pytest.approx(-length * weights, rel=1e-6)


def test_far_out_a_landscape_may_be_infinite():
    net = dn.Sequential([dn.Dense(3), dn.Dense(2)]).init((4,), dtype="float16")
    x = dn.asarray(np.full((2, 4), 100.0), "float16")
    for directions in (1, 2):
        dn.viz.loss_landscape(net, x, [0, 1], span=1e4, points=5, directions=directions).figure.canvas.draw()


# -- what cannot be drawn ----------------------------------------------------------------------------------------------


def test_errors_say_what_was_expected_and_leave_no_figure(seen):
    net, x, t = seen
    flat = dn.Sequential([dn.Dense(3)]).init((4,))
    row = dn.asarray(np.zeros((1, 4), "float32"))
    refused = [
        ("has no convolution", ValueError, lambda: dn.viz.filters(flat)),
        ("is not initialised: call net.init", ValueError, lambda: dn.viz.filters(dn.Conv2D(2, 3))),
        ("no filter bank; these have: '0', '4'", ValueError, lambda: dn.viz.filters(net, "2")),
        ("channels 0 … 1, got channel=2", ValueError, lambda: dn.viz.filters(net, channel=2)),
        ("expected a network or layer, got int", TypeError, lambda: dn.viz.filters(3)),
        ("limit must be at least 1", ValueError, lambda: dn.viz.filters(net, limit=0)),
        ("x holds 3 examples; expected one", ValueError, lambda: dn.viz.feature_maps(net, x)),
        ("no layer 'conv'; its layers are '0'", ValueError, lambda: dn.viz.feature_maps(net, x[0], "conv")),
        ("7 Dense gives .4,. for each example; expected maps", ValueError, lambda: dn.viz.deltas(net, x[0], 1, "7")),
        ("x holds 1 examples, but t has shape", ValueError, lambda: dn.viz.deltas(net, x[0], t)),
        ("takes .4,.; expected images", ValueError, lambda: dn.viz.saliency(flat, row)),
        ("t holds 9 … 9; 4 classes are 0 … 3", ValueError, lambda: dn.viz.saliency(net, x, 9)),
        ("one for each of the 3 images", ValueError, lambda: dn.viz.grad_cam(net, x, [0, 1])),
        ("1 names; expected one for each of 4", ValueError, lambda: dn.viz.grad_cam(net, x, t, classes=[0])),
        ("not both", ValueError, lambda: dn.viz.saliency(net, x, ax=1, axes=2)),
        ("expected the history that net.fit returned, got list", TypeError, lambda: dn.viz.learning_curves([1.0])),
        ("no epochs", ValueError, lambda: dn.viz.learning_curves(dn.History())),
        ("t holds 3 answers, but predictions 2", ValueError, lambda: dn.viz.confusion_matrix(t, [0, 1])),
        ("expected class numbers", ValueError, lambda: dn.viz.confusion_matrix(t, [0.5, 1.0, 2.0])),
        ("True or False", TypeError, lambda: dn.viz.confusion_matrix(t, t, normalize="yes")),
        ("x holds 3 images, but t 2", ValueError, lambda: dn.viz.misclassified(x, t[:2], t[:2])),
        ("expected images .N, H, W, C.", ValueError, lambda: dn.viz.misclassified(x[0, 0], t, t)),
        ("directions must be 1, 2 or 'gradient'", ValueError, lambda: dn.viz.loss_landscape(net, x, t, directions=3)),
        ("span must be a finite number above 0", ValueError, lambda: dn.viz.loss_landscape(net, x, t, span=-1.0)),
        ("has no weights to move", ValueError, lambda: dn.viz.loss_landscape(dn.ReLU().init((4,)), row, [0])),
    ]  # fmt: skip
    for words, kind, call in refused:
        with pytest.raises(kind, match=words):
            call()
        assert plt.get_fignums() == [], words
