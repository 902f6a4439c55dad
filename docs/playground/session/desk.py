"""What the page may ask: a method and its arguments in JSON; and the answers, or errors in the library's words."""

from __future__ import annotations

import base64
import io
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy

import dualnet as dn

from . import blocks, breaking, exercises, looking, notebook, pictures, plan
from .console import Console
from .training import Training


class Desk:
    """One training, one set of images, one console.

    >>> desk = Desk()
    >>> json.loads(desk.ask("begin", "{}"))["answer"]["step"]
    0
    >>> json.loads(desk.ask("begin", '{"settings": {"layers": []}}'))["error"]
    'playground: the network has no layers yet; add a block'
    """

    def __init__(self) -> None:
        self.console = Console()
        self.pictures = pictures.digits()
        self.training: Training | None = None

    def ask(self, method: str, arguments: str) -> str:
        """Answer a question of the page; whatever goes wrong becomes an answer too."""
        if method not in QUESTIONS:
            return json.dumps({"error": f"playground: there is no question {method!r}"})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return json.dumps({"answer": _numbers(getattr(self, method)(**json.loads(arguments)))}, allow_nan=False)
        except Exception as error:
            return json.dumps({"error": str(error) or type(error).__name__, "kind": type(error).__name__})

    @property
    def now(self) -> Training:
        if self.training is None:
            raise ValueError("playground: there is no network yet")
        return self.training

    # -- the drawing

    def about(self) -> dict[str, Any]:
        return {"version": dn.__version__, "default": plan.DEFAULT, **blocks.catalogue(), "data": self.pictures.about()}

    def shapes(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {"rows": plan.shapes(plan.complete(settings), self.pictures.shape)}

    def begin(self, settings: dict[str, Any] | None = None) -> dict[str, Any]:
        """A new training. If it does not fit, the old one stays."""
        wanted = plan.complete(settings or {})
        if wanted["data"] != self.pictures.name:
            if wanted["data"] != "digits":
                raise ValueError(
                    f"playground: the images of {wanted['data']!r} are not here: draw or upload them again"
                )
            self.pictures = pictures.digits()
        self.training = Training(wanted, self.pictures)
        return self._begun()

    def _begun(self) -> dict[str, Any]:
        rows = plan.shapes(self.now.settings, self.pictures.shape)
        return self.now.told() | {"settings": self.now.settings, "rows": rows, "data": self.pictures.about()}

    # -- the images

    def draw(self, images: list[list[float]], labels: list[str], shape: list[int]) -> dict[str, Any]:
        self.pictures = pictures.drawn(images, labels, shape)
        return self.pictures.about()

    def upload(self, data: str) -> dict[str, Any]:
        self.pictures = pictures.uploaded(data)
        return self.pictures.about()

    def images(self) -> dict[str, Any]:
        """The images as a file that the notebook reads."""
        held, file = self.pictures, io.BytesIO()
        numpy.savez_compressed(file, x=held.x, t=held.t, x_test=held.xv, t_test=held.tv)
        return {"name": notebook.DATA, "bytes": base64.b64encode(file.getvalue()).decode()}

    # -- the training

    def advance(self, steps: int, until: int | None = None) -> dict[str, Any]:
        """So many steps, but not beyond ``until``."""
        left = steps if until is None else max(0, min(steps, until - self.now.step))
        return self.now.advance(left) | {"filters": looking.filters(self.now)}

    def rewind(self, step: int) -> dict[str, Any]:
        return self.now.rewind(step) | {"filters": looking.filters(self.now)}

    def set_lr(self, lr: Any) -> dict[str, Any]:
        return self.now.set_lr(blocks.value(lr))

    # -- looking

    def inside(self, **where: Any) -> dict[str, Any]:
        return looking.inside(self.now, **where)

    def explain(self, **what: Any) -> dict[str, Any]:
        return looking.explained(self.now, **what)

    def page(self, **what: Any) -> dict[str, Any]:
        return {"name": "explain.html", "text": looking.page(self.now, **what)}

    def answer(self, pixels: list[float]) -> dict[str, Any]:
        return looking.answer(self.now, pixels)

    # -- breaking

    def menu(self) -> dict[str, Any]:
        return {"rows": breaking.menu(self.now.net)}

    def break_(self, name: str) -> dict[str, Any]:
        return self.now.break_(name)

    def check(self) -> dict[str, Any]:
        return breaking.report(self.now.net, self.now.broken)

    # -- exercises

    def exercises(self) -> dict[str, Any]:
        return {"rows": exercises.course()}

    def exercise(self, name: str) -> dict[str, Any]:
        return exercises.task(name)

    def hint(self, name: str) -> dict[str, Any]:
        return {"text": dn.zoo.show(name).hint}

    def witnesses(self, name: str) -> dict[str, Any]:
        return {"text": str(dn.zoo.report(name))}

    def grade(self, name: str, code: str) -> dict[str, Any]:
        return exercises.verdict(name, code)

    def colours(self, code: str) -> dict[str, Any]:
        return {"lines": exercises.coloured(code)}

    # -- keeping

    def save(self) -> dict[str, Any]:
        """The network as the ``.npz`` that ``dn.load`` reads."""
        whole = breaking.mended(self.now.net.copy())
        with tempfile.TemporaryDirectory() as folder:
            data = whole.save(Path(folder) / "model.npz").read_bytes()
        return {"name": "model.npz", "bytes": base64.b64encode(data).decode()}

    def load(self, data: str, name: str = "playground") -> dict[str, Any]:
        """A network from such a file, which an error calls ``name``; its optimizer begins afresh."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.npz"
            path.write_bytes(base64.b64decode(data))
            try:
                net = dn.load(path)
            except dn.CheckpointError as error:
                raise ValueError(str(error).replace(str(path), name)) from None
        settings = (self.training.settings if self.training else plan.complete({})) | {"broken": ""}
        settings |= {"layers": plan.drawing(net), "data": self.pictures.name}
        if tuple(net.input_shape) != self.pictures.shape:
            raise ValueError(
                f"playground: the network takes {net.input_shape}; the images here are {self.pictures.shape}"
            )
        self.training = Training(settings, self.pictures, net)
        return self._begun()

    def notebook(self) -> dict[str, Any]:
        return {"name": "playground.ipynb", "text": notebook.notebook(self.now), "code": notebook.code(self.now)}

    def run(self, code: str) -> dict[str, Any]:
        return self.console.run(code, self.now)


QUESTIONS = {name for name in vars(Desk) if not name.startswith("_")} - {"ask", "now"}


def _numbers(answer: Any) -> Any:
    """Without NaN and infinity, which JSON does not have."""
    if isinstance(answer, dict):
        return {name: _numbers(value) for name, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [_numbers(value) for value in answer]
    if isinstance(answer, float) and not numpy.isfinite(answer):
        return None
    return answer.item() if isinstance(answer, numpy.generic) else answer
