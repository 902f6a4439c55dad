"""The version, in a file that a build reads without importing anything."""

__version__ = "0.1.0"
