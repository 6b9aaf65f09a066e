"""Which hub is meant, by what was said, the environment, or the form of a token."""

from __future__ import annotations

import pytest

from internvl35.errors import ConfigError
from internvl35.hub_choice import is_hugging_face


@pytest.mark.parametrize(
    ("use_hf", "token", "variable", "expected"),
    [
        (None, None, None, True), (None, None, "", True), (None, None, "1", True),
        (None, None, "True", True), (None, None, "0", False), (None, None, " no ", False),
        (None, "hf_abc", None, True), (None, "ms-abc", None, False),
        (None, "12345678-abcd-ABCD-0123-0123456789ab", None, False),
        (None, "something", None, True), (None, "ms-abc", "1", True),
        (None, "hf_abc", "False", False), (True, "ms-abc", "0", True),
        (False, "hf_abc", "1", False),
    ],
)  # fmt: skip
def test_the_hub_follows_setting_environment_and_token_in_this_order(
    use_hf: bool | None, token: str | None, variable: str | None, expected: bool
) -> None:
    environment = {} if variable is None else {"USE_HF": variable}
    found, reason = is_hugging_face(use_hf, token, environment)
    assert found == expected
    assert not token or token not in reason


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_HF", "0")
    assert is_hugging_face(None) == (False, "USE_HF is 0")


def test_a_switch_that_is_neither_on_nor_off_is_refused() -> None:
    with pytest.raises(ConfigError, match="USE_HF is 'maybe'; needed: 1 or 0"):
        is_hugging_face(None, None, {"USE_HF": "maybe"})
