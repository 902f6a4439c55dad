"""The certificate: what ``dualnet parity`` compares, its verdict, and the pages that it writes.

certificate.py   every op, kernel and network on every backend
verdict.py       the reasons against a PASS
report.py        the certificate as Markdown, HTML and JSON
reproducer.py    one case again, with its numbers
sources.py       a hash of the kernels, which shows whether a certificate still applies to them
command.py       the options of ``dualnet parity``
"""
