"""Doctests of one module find the package as a user does: imported as a whole, with its functions in place."""

from importlib.util import find_spec

import dualnet  # noqa: F401

NEEDED = {
    "onnx": ["onnx_export", "onnx_export_graph", "onnx_import"],
    "sklearn": ["sklearn"],
    "torch": ["pytorch", "pytorch_export", "against/__init__"],
}
"""Libraries, and the files of bridges whose classes derive from theirs or whose examples import them."""
collect_ignore = [
    f"dualnet/bridges/{file}.py" for library in NEEDED if not find_spec(library) for file in NEEDED[library]
]
