"""Which hub names are looked up on and pushed to: Hugging Face or ModelScope.

Asking the hubs is left to :mod:`internvl35.model` and :mod:`internvl35.data`. No counterpart in the
paper.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from internvl35.errors import ConfigError

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def is_hugging_face(
    use_hf: bool | None, token: str | None = None, environment: Mapping[str, str] | None = None
) -> tuple[bool, str]:
    """Decide whether the Hugging Face hub is meant, or else ModelScope.

    Args:
        use_hf: what the user said; None for nothing.
        token: the token given, whose form tells hubs apart.
        environment: where ``USE_HF`` is looked up; by default the process's.

    Returns:
        The decision, and the reason in a few words.

    Raises:
        ConfigError: if ``USE_HF`` is neither on nor off.
    """
    if use_hf is not None:
        return use_hf, f"use_hf is {str(use_hf).lower()}"
    switch = (os.environ if environment is None else environment).get("USE_HF", "").strip().lower()
    if switch:
        if switch not in _SWITCH:
            raise ConfigError(f"the environment variable USE_HF is {switch!r}; needed: 1 or 0")
        return _SWITCH[switch], f"USE_HF is {switch}"
    if token and token.startswith("hf_"):
        return True, "the token begins with hf_"
    if token and token.startswith("ms-"):
        return False, "the token begins with ms-"
    if token and _UUID.fullmatch(token):
        return False, "the token has the form of ModelScope's"
    return True, "by default; use_hf false means ModelScope"
