"""Whole networks on two backends."""
