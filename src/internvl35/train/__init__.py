"""Training: one loop, to which each kind of training gives its loss as a function.

Answering and scoring are left to :mod:`internvl35.chat` and :mod:`internvl35.evals`. Paper section
2.2.
"""
