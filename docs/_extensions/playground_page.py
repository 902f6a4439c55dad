"""The playground beside the pages, in the folder ``playground/``; tools/playground.py puts it together."""

import importlib.util
from pathlib import Path
from typing import Any

TOOL = Path(__file__).resolve().parents[2] / "tools" / "playground.py"


def make(app: Any) -> None:
    if app.builder.format != "html":
        return
    spec = importlib.util.spec_from_file_location("put_together_playground", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.put_together(Path(app.outdir) / "playground")


def setup(app: Any) -> dict[str, Any]:
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
