"""Screens with windows, buttons, fields and icons."""
