"""What is made when the site is built: the picture for light and for dark pages, and the interactive page."""

import importlib.util
from pathlib import Path
from typing import Any

from dualnet import Adam, data
from dualnet.seeing import explain
from dualnet.seeing.explain.example import subject

HERE = Path(__file__).resolve().parents[1]


def picture(theme: str, upright: bool) -> str:
    """docs/backprop.svg in one colouring, since readers choose the page's beside their system's; upright for phones."""
    spec = importlib.util.spec_from_file_location("make_picture", HERE / "make_picture.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make.picture(theme, upright)


def interactive() -> Any:
    """A network that has learned a little, on one digit: fresh weights would show noise."""
    net, x, t = subject()
    images, labels = data.load_digits()[0]
    net.fit(images, labels, epochs=5, optimizer=Adam(lr=0.01), verbose=0)
    return explain(net, x, t=t)


def make(app: Any) -> None:
    if app.builder.format != "html":
        return
    static = Path(app.outdir) / "_made"
    static.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        (static / f"backprop-{theme}.svg").write_text(picture(theme, upright=False), "utf-8")
        (static / f"backprop-{theme}-upright.svg").write_text(picture(theme, upright=True), "utf-8")
    interactive().to_html(static / "explain.html")


def light(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """The style of notebooks goes with the tutorials only."""
    if not page.startswith("tutorials/"):
        context["css_files"] = [file for file in context["css_files"] if "mystnb" not in str(file.filename)]


def setup(app: Any) -> dict[str, Any]:
    app.connect("builder-inited", make)
    app.connect("html-page-context", light)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
