"""What gateways and servers are told about the links between them."""

from __future__ import annotations

import pytest

from internvl35.commands.links import LinkOptions, read_address
from internvl35.errors import ConfigError

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("eye:7000", "eye", 7000), ("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:65535", "::1", 65535)],
)
def test_addresses_are_read(text, host, port):
    assert read_address(text) == (host, port)


@pytest.mark.parametrize("text", ["", "eye", ":7", "eye:", "eye:65536", "::1:7", "a:-1", "a:x"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ConfigError, match="is no address"):
        read_address(text)


def test_a_secret_is_read_from_a_file_of_its_owner_alone(tmp_path):
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    assert LinkOptions(secret_file=str(file)).read_secret() == SECRET.encode()
    assert LinkOptions().read_secret() is None
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="is open to others") as caught:
        LinkOptions(secret_file=str(file)).read_secret()
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        LinkOptions(secret_file=str(tmp_path / "none")).read_secret()


def test_certificates_come_together_or_not_at_all(tmp_path):
    with pytest.raises(ConfigError, match="1 of them are given"):
        LinkOptions(tls_key="key.pem")
    assert LinkOptions().context(is_server=True) is None
    empty = tmp_path / "empty.pem"
    empty.touch()
    wrong = LinkOptions(tls_certificate=str(empty), tls_key=str(empty), tls_authority=str(empty))
    with pytest.raises(ConfigError, match="cannot be used"):
        wrong.context(is_server=True)
