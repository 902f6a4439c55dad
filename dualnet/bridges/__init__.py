"""Bridges to other frameworks, and networks as files in other languages. Each is imported on first use."""
