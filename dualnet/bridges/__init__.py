"""Bridges to other frameworks, and networks as files of other languages. Each is imported when it is first used."""
