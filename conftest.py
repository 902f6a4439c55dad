"""Doctests of one module find the package as a user does: imported as a whole, with its functions in place."""

import dualnet  # noqa: F401
