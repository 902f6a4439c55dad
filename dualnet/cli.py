"""The command line: ``dualnet train | predict | summary | check | explain | zoo | bench | parity | info``.

A user's mistake (a file, a name, a backend) ends in one line on stderr and exit code 2. If an argument cannot be read,
the usage stands above that line. A gradient check that fails ends in exit code 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

import dualnet as dn

from . import bench, data, models
from .check import Report
from .parity.certificate import command as parity
from .shim.dtypes import FLOATING, master_dtype

DATASETS = {  # name: (model, epochs, learning rate for Adam)
    "digits": ("digits_cnn", 12, 2e-3),
    "mnist": ("lenet5", 5, 2e-3),
    "cifar10": ("vgg6", 10, 1e-3),
}
EXIT_WRONG, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(argv)
    options.words = list(sys.argv[1:] if argv is None else argv)[1:]
    try:
        if getattr(options, "backend", None):
            dn.set_backend(options.backend)
        return options.run(options) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ValueError, OSError, ImportError, dn.BackendUnavailable) as error:
        message = re.sub(r"^\[Errno \d+\] ", "", " ".join(str(error).split())).removeprefix(f"{options.command}: ")
        print(f"dualnet {options.command}: {message}", file=sys.stderr)
        return EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dualnet", description="Convolutional networks whose backward passes are written to be read."
    )
    parser.add_argument("--version", action="version", version=f"dualnet {dn.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _train_options(commands)
    _predict_options(commands)
    _summary_options(commands)
    _check_options(commands)
    _explain_options(commands)
    _bench_options(commands)
    _zoo_options(commands)
    _parity_options(commands)
    _command(commands, "info", _info, "show versions, backends and what runs here")
    return parser


def _train_options(commands: Any) -> None:
    parser = _command(commands, "train", _train, "train a network, show its test accuracy and save it")
    parser.add_argument("dataset", nargs="?", choices=DATASETS, default="digits", help="what to learn (digits)")
    parser.add_argument("--data", metavar="DIR", help="the folder with the files of mnist or cifar10")
    parser.add_argument("--model", metavar="NAME", help=f"one of {', '.join(models.NAMES)}")
    parser.add_argument("--epochs", type=_count, metavar="N", help="passes over the training data")
    parser.add_argument("--batch-size", type=_count, default=64, metavar="N", help="images in a step (64)")
    parser.add_argument("--lr", type=_rate, metavar="RATE", help="the highest learning rate of the one-cycle schedule")
    parser.add_argument("--optimizer", default="adam", metavar="NAME", help="sgd, rmsprop, adam or adamw (adam)")
    parser.add_argument("--augment", action="store_true", help="shift the images, and mirror those of cifar10")
    parser.add_argument("--capture", action="store_true", help="the whole step as one CUDA graph, on a GPU")
    parser.add_argument("--dtype", choices=FLOATING, help="what layers compute in (DUALNET_DTYPE, or float32)")
    parser.add_argument(
        "--loss-scale",
        type=_loss_scale,
        default="auto",
        metavar="S",
        help="auto (dynamic for float16), none, or a number",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for the weights and the order (0)")
    parser.add_argument("--out", default=".", metavar="DIR", help="where the model is saved (this folder)")


def _predict_options(commands: Any) -> None:
    parser = _command(commands, "predict", _predict, "classify images with a saved network")
    parser.add_argument("model", metavar="MODEL", help="a file that `dualnet train` or net.save() wrote")
    parser.add_argument(
        "images", metavar="IMAGES", help="a photo, an .npy or IDX file (N, H, W[, C]), or digits, mnist or cifar10"
    )
    parser.add_argument("--data", metavar="DIR", help="the folder with the files of mnist or cifar10")


def _summary_options(commands: Any) -> None:
    parser = _command(commands, "summary", _summary, "show a network's layers, shapes, parameters and multiply-adds")
    parser.add_argument("model", metavar="MODEL", help=f"a saved network, or one of {', '.join(models.NAMES)}")
    parser.add_argument("--input-shape", type=_shape, metavar="H,W,C", help="the shape of one image")


def _check_options(commands: Any) -> None:
    parser = _command(commands, "check", _check, "prove gradients by finite differences and dot products")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a saved network or a model's name (every layer)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for the directions (0)")


def _explain_options(commands: Any) -> None:
    parser = _command(commands, "explain", _explain, "show where a number comes from, as a sum and as a page")
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a saved network, a model's name or a data set (a small fresh network)",
    )
    parser.add_argument("--target", metavar="T", help='such as "0.dw[0,1,0,2]" (the first convolution\'s largest)')
    parser.add_argument("--images", metavar="IMAGES", help="an .npy or IDX file, or digits, mnist or cifar10")
    parser.add_argument("--image", type=int, default=0, metavar="N", help="which of the images (0, the first)")
    parser.add_argument("--label", type=int, metavar="N", help="the image's class, if the images bring none")
    parser.add_argument("--data", metavar="DIR", help="the folder with the files of mnist or cifar10")
    parser.add_argument("--html", metavar="FILE", help="write the interactive page to a file")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for the weights of a fresh network (0)")


def _bench_options(commands: Any) -> None:
    parser = _command(commands, "bench", _bench, "measure networks: speed, memory, alone and against others")
    parser.add_argument("nets", nargs="*", metavar="NET", help="saved networks or names (lenet5 vgg6 resnet20 wide)")
    parser.add_argument(
        "--batch", type=_counts, default=(1, 64, 256), metavar="N,...", help="images in a batch (1,64,256)"
    )
    parser.add_argument(
        "--mode", type=_words, default=("training", "inference"), metavar="M,...", help="training, inference or both"
    )
    parser.add_argument("--layers", action="store_true", help="also where the time of a training step goes")
    parser.add_argument(
        "--against",
        type=_words,
        action="extend",
        default=[],
        metavar="PEER[=PYTHON],...",
        help="torch, torch.compile, jax, chainer, mygrad; PYTHON is the interpreter that has the peer (this one)",
    )
    parser.add_argument(
        "--rounds", type=_count, default=3, metavar="N", help="times that each is measured; the best counts (3)"
    )
    parser.add_argument(
        "--seconds", type=_rate, default=1.0, metavar="S", help="how long each is measured in a round (1)"
    )
    parser.add_argument(
        "--dtype", type=_words, default=("float32",), metavar="D,...", help="float32, tf32, bfloat16, float16 (float32)"
    )
    parser.add_argument("--momentum", type=float, default=0.0, metavar="M", help="of SGD (0)")
    parser.add_argument("--capture", action="store_true", help="dualnet's training step as one CUDA graph")
    parser.add_argument("--stay", action="store_true", help="let processes wait between rounds, as on a GPU")
    parser.add_argument("--limit", type=_rate, metavar="S", help="begin nothing more after S seconds")
    parser.add_argument("--threads", type=_count, metavar="N", help="threads for everyone (the cores of this process)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for the weights and the data (0)")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to a file")
    parser.add_argument("--markdown", metavar="FILE[#MARK]", help="write the tables to a file, or to a place in a page")


def _zoo_options(commands: Any) -> None:
    parser = _command(commands, "zoo", _zoo, "exercises: backward passes with one mistake each, for you to mend")
    parser.add_argument("exercise", nargs="?", metavar="NAME", help="the exercise to show (all are listed)")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--out", metavar="FILE", help="write the wrong code to a file, to mend it there")
    actions.add_argument("--grade", metavar="FILE", help="run the file and judge the repair; exit code 1 if wrong")
    actions.add_argument("--hint", action="store_true", help="show a hint")
    actions.add_argument("--solution", action="store_true", help="show what was wrong, and which checks miss it")


def _parity_options(commands: Any) -> None:
    parser = commands.add_parser("parity", help="compare backends with float64 and each other: the certificate")
    parity.add_options(parser)
    parser.set_defaults(run=_parity)


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    parser.add_argument(
        "--backend", metavar="B", help="numpy, cupy, cupy:N, auto or strict (DUALNET_BACKEND, or numpy)"
    )
    parser.set_defaults(run=run)
    return parser


def _train(options: argparse.Namespace) -> None:
    model, epochs, rate = DATASETS[options.dataset]
    model, epochs = options.model or model, options.epochs or epochs
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; expected a folder")
    net = models.get(model)()
    (x, t), (x_test, t_test) = _load(options.dataset, options.data)
    net.init(x.shape[1:], seed=options.seed, dtype=options.dtype)
    out.mkdir(parents=True, exist_ok=True)  # if this fails, it fails before the training
    steps = epochs * -(-len(x) // options.batch_size)
    optimizer = dn.optimizers.get(options.optimizer)
    peak = options.lr or (rate if isinstance(optimizer, dn.Adam | dn.AdamW) else optimizer.current_lr)
    optimizer.lr = dn.schedules.OneCycle(peak, steps)

    count = sum(p.value.size for p in net.parameters().values())
    print(f"{model} ({count:,} parameters) on {options.dataset}: {len(x):,} images to learn, {len(x_test):,} to test")
    print(f"backend {dn.get_backend()}, {options.optimizer}, one cycle up to {peak:g}, seed {options.seed}", flush=True)
    augment = data.Augment(max(1, x.shape[1] // 8), options.dataset == "cifar10") if options.augment else None
    x, t = (dn.asarray(x), dn.asarray(t)) if augment else (x, t)  # batches are made where the images are
    begun = time.perf_counter()
    net.fit(
        x,
        t,
        epochs=epochs,
        batch_size=options.batch_size,
        optimizer=optimizer,
        seed=options.seed,
        augment=augment,
        capture=options.capture,
        loss_scale=options.loss_scale,
    )
    seconds = time.perf_counter() - begun
    score = net.evaluate(x_test, t_test)
    path = net.save(out / f"{options.dataset}-{model}")
    print(f"trained in {seconds:.1f} s, saved as {path}")
    print(f"test accuracy {100 * score['accuracy']:.2f} %")


def _predict(options: argparse.Namespace) -> None:
    net = dn.load(options.model)
    if options.images in DATASETS:
        _, (x, t) = _load(options.images, options.data)
    else:
        x, t = _images(options.images, net), None
    y = net.predict(x)
    if t is not None:
        print(f"{len(x):,} images, accuracy {100 * float(numpy.mean(y.argmax(axis=-1) == t)):.2f} %")
        return
    for i, words in enumerate(dn.losses.in_words(net, dn.asarray(y, master_dtype(y.dtype)))):
        print(f"image {i}: {words}")


def _summary(options: argparse.Namespace) -> None:
    print(_network(options.model, options.input_shape).summary())


def _check(options: argparse.Namespace) -> int:
    subjects = _every_layer() if options.model is None else [_network(options.model, None)]
    wrong = 0
    for layer in subjects:
        report = dn.check.gradient(layer, seed=options.seed, raises=False)
        print(report if options.model or not report.ok else _line(layer, report), flush=True)
        wrong += not report.ok
    print(f"{len(subjects) - wrong} passed, {wrong} failed" if not options.model else "")
    return EXIT_WRONG if wrong else 0


def _line(layer: dn.Layer, report: Report) -> str:
    return f"{'ok' if report.ok else 'WRONG':<6} worst error {report.worst:.1e}  {layer}"


def _every_layer() -> list[dn.Layer]:
    """One layer of each kind, with options that matter to its backward pass."""
    maps = (6, 7, 4)
    layers: list[dn.Layer] = [
        dn.Conv2D(6, (3, 2), stride=2, padding="same", groups=2),
        dn.Conv2D(3, 3, dilation=2, padding="full", mode="convolution"),
        dn.Conv2DTranspose(3, 3, stride=2, padding=1, output_padding=1),
        dn.DepthwiseConv2D(3, depth_multiplier=2),
        dn.SeparableConv2D(5, 3, padding="same"),
        dn.MaxPool2D(3, stride=2, padding=1),
        dn.AveragePool2D((2, 3), stride=1, ceil_mode=True),
        dn.L2Pool2D(2),
        dn.GlobalAveragePool2D(),
        dn.GlobalMaxPool2D(),
        dn.Sequential([dn.Flatten(), dn.Dense(5)]),
        *(f() for f in (dn.ReLU, dn.LeakyReLU, dn.ELU, dn.GELU, dn.SiLU, dn.Sigmoid, dn.Tanh, dn.Softplus)),
        dn.Softmax(),
        dn.LogSoftmax(),
        dn.BatchNorm(),
        dn.LayerNorm(),
        dn.GroupNorm(2),
        dn.Dropout(0.3),
        dn.Residual(dn.Conv2D(4, 3, padding="same")),
        dn.Parallel([dn.Conv2D(2, 1), dn.Identity()], merge="concat"),
    ]
    return [layer.init(maps) for layer in layers]


def _bench(options: argparse.Namespace) -> int:
    targets = [target for target in (options.markdown, options.json) if target]
    for target in targets:
        bench.place(target)  # if this fails, it fails before anything is measured

    def keep(seen: dict[str, Any]) -> None:
        if options.json:  # so that nothing is lost, whatever happens later
            bench.write(json.dumps(seen, indent=1) + "\n", options.json)

    result = bench.run(
        options.nets or bench.DEFAULT,
        batches=options.batch,
        modes=options.mode,
        layers=options.layers,
        against={name: python or None for name, _, python in (peer.partition("=") for peer in options.against)},
        rounds=options.rounds,
        seconds=options.seconds,
        threads=options.threads,
        seed=options.seed,
        dtypes=options.dtype,
        momentum=options.momentum,
        capture=options.capture,
        stay=options.stay or None,
        limit=options.limit,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
        keep=keep,
    )
    text = bench.markdown(result)
    print(text)
    if options.json:
        bench.write(json.dumps(result, indent=1) + "\n", options.json)
    if options.markdown:
        bench.write(text, options.markdown)
    return EXIT_WRONG if bench.wrong(result) else 0


def _explain(options: argparse.Namespace) -> None:
    net, x, t = _subject(options)
    why = dn.explain(net, x, options.target, t=t)
    path = why.to_html(options.html) if options.html else None
    print(why)
    if path:
        print(f"\n{path}: the page, {path.stat().st_size / 1000:.0f} kB; open it in a browser")


def _subject(options: argparse.Namespace) -> tuple[dn.Layer, Any, Any]:
    """A network, one image and its class."""
    if options.model is None and options.images is None:
        from .seeing.explain.example import subject

        example, x, t = subject(options.image, options.seed)
        return example, x, t if options.label is None else [options.label]
    name = options.model or "digits_cnn"
    net = _fresh_or_saved(name, options.seed)
    images = options.images or (name if name in DATASETS else "digits" if net.input_shape == (8, 8, 1) else None)
    if images is None:
        raise ValueError("say which image, with --images FILE, or --images mnist --data DIR")
    x, t = _load(images, options.data)[1] if images in DATASETS else (_images(images, net), None)
    if not 0 <= options.image < len(x):
        raise ValueError(f"--image {options.image}: there are {len(x):,} images, 0 … {len(x) - 1}")
    one = slice(options.image, options.image + 1)
    if options.label is not None:
        return net, x[one], [options.label]
    return net, x[one], None if t is None else t[one]


def _fresh_or_saved(name: str, seed: int) -> dn.Layer:
    """A fresh network for the name of a data set or model; else the one in the file."""
    model = DATASETS[name][0] if name in DATASETS else name
    if model in models.NAMES:
        return models.get(model)().init(models.INPUT_SHAPES[model], seed=seed)
    return _network(name, None)


def _zoo(options: argparse.Namespace) -> int:
    from .zoo.command import command

    text, well = command(
        options.exercise, hint=options.hint, solved=options.solution, out=options.out, graded=options.grade
    )
    print(text)
    return 0 if well else EXIT_WRONG


def _parity(options: argparse.Namespace) -> int:
    text, code = parity.run(options, options.words)
    print(text)
    return code


def _info(options: argparse.Namespace) -> None:
    print(dn.info())


def _network(name: str, input_shape: tuple[int, ...] | None) -> dn.Layer:
    if name in models.NAMES:
        return models.get(name)().init(input_shape or models.INPUT_SHAPES[name])
    if not Path(name).exists():
        raise ValueError(f"{name!r} is neither a file nor a model; the models are {', '.join(models.NAMES)}")
    net = dn.load(name)
    if input_shape not in (None, net.input_shape):
        raise ValueError(f"{name} was made for inputs of {net.input_shape}; --input-shape is for models without a file")
    return net


def _load(dataset: str, folder: str | None) -> Any:
    if dataset == "digits":
        return data.load_digits()
    if folder is None:
        raise ValueError(f"{dataset}: say where its files lie, with --data DIR")
    return data.load_mnist(folder) if dataset == "mnist" else data.load_cifar10(folder)


def _images(name: str, net: dn.Layer) -> numpy.ndarray:
    """Images (N, H, W), (N, H, W, C) or a single one; bytes are scaled to [0, 1], floating numbers stay as they are."""
    if not Path(name).is_file():
        raise ValueError(f"{name!r} is neither a file nor one of {', '.join(DATASETS)}")
    if name.endswith(".npy"):
        x = data.reading.read_npy(name)
    elif name.lower().endswith(data.folder.SUFFIXES):
        height, width, channels = net.input_shape or ()
        x = data.read_image(name, (height, width), grey=channels == 1)
    else:
        x = data.read_idx(name)
    shape = net.input_shape or ()
    if shape[-1:] == (1,) and len(shape) == 3 and x.shape[-2:] == shape[:-1]:
        x = x[..., None]
    if x.ndim == len(shape):
        x = x[None]
    return x.astype(numpy.float32) / 255 if x.dtype == numpy.uint8 else x


def _count(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _loss_scale(text: str) -> str | float | None:
    if text in ("auto", "none"):
        return None if text == "none" else text
    try:
        return _rate(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text} is not auto, none or a positive number") from None


def _shape(text: str) -> tuple[int, ...]:
    return tuple(_whole(part) for part in text.replace("x", ",").split(","))


if __name__ == "__main__":
    sys.exit(main())
