"""Evaluation: how often a model is right, on drawn tasks now and on benchmarks later.

Rules of scoring stand in :mod:`internvl35.scoring`; answering is left to :mod:`internvl35.chat`.
"""
