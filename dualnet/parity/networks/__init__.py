"""Whole networks on several backends: against float64, and in lock-step.

network.py    your own network: outputs, loss, gradients and answers against float64 (``dn.parity``)
lockstep.py   training on two backends at once, compared op by op (``dn.twin``)
tape.py       a network that records what its layers compute, and one that follows the recording
training.py   the three networks of the certificate, in training
"""
