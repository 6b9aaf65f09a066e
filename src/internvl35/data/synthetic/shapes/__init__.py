"""Coloured shapes: counted, named, compared, in several pictures and in videos."""
