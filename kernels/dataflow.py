"""One launch a sequence and layer, and no barrier in it: the sequence kernel with marked rows.

A program goes on as soon as the rows that it needs are there, as in a dataflow machine, instead of
when everybody has said that theirs are (`kernels/marks.py`). All else is `kernels/sequence.py`.
"""

from functools import partial

from kernels import sequence

forward = partial(sequence.forward, marked=True)
backward = partial(sequence.backward, marked=True)
