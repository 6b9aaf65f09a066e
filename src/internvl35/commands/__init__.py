"""The commands of ``internvl35``, one file a group; :mod:`internvl35.cli` puts them together.

A file here imports only what ``--help`` needs. The heavy rooms (``model``, ``data``, ``chat``,
``train``) are imported inside the command functions.
"""
