"""Measurements: each file writes ``results/NAME.json`` with machine, date, versions and figures."""
