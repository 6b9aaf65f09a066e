"""Sums over pictures and without any."""
