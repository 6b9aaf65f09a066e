"""Decoupled vision and language: a gateway that works with servers of both kinds over links.

No counterpart in the paper but the sketch of DvD in section 2.3.
"""
