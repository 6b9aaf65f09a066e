"""What gateways and servers are told about the links between them."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from internvl35.commands.links import LinkOptions, read_address
from internvl35.errors import ConfigError
from internvl35.serve.messages import Profile

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


def read(file):
    return LinkOptions(secret_file=str(file)).read_secret()


@pytest.fixture
def open_folder():
    """A folder that everybody can enter, which those of pytest are not."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def write(file, mode, owner=None):
    file.write_text(f"{SECRET}\n")
    file.chmod(mode)
    if owner is not None:
        os.chown(file, owner, owner)
    return file


def test_a_secret_is_read_from_a_file_of_its_owner_alone(open_folder):
    assert LinkOptions().read_secret() is None
    for mode in (0o600, 0o400):
        assert read(write(open_folder / "secret", mode)) == SECRET.encode()
    with pytest.raises(ConfigError, match="cannot be read"):
        read(open_folder / "none")
    for mode in (0o604, 0o644, 0o444, 0o660, 0o606, 0o622):
        with pytest.raises(ConfigError, match="is open to others") as caught:
            read(write(open_folder / "secret", mode))
        assert SECRET not in str(caught.value)


def test_what_others_cannot_reach_they_cannot_read(open_folder):
    inner = open_folder / "closed" / "inner"
    inner.mkdir(parents=True)
    file = write(inner / "secret", 0o444)
    with pytest.raises(ConfigError, match="is open to others"):
        read(file)
    inner.parent.chmod(0o700)
    assert read(file) == SECRET.encode()
    (open_folder / "link").symlink_to(file)  # as Kubernetes mounts secrets
    assert read(open_folder / "link") == SECRET.encode()
    inner.parent.chmod(0o701)
    with pytest.raises(ConfigError, match="is open to others"):
        read(file)
    inner.parent.chmod(0o700)
    with pytest.raises(ConfigError, match="is open to others"):
        read(write(file, 0o466))  # whoever gets in might change it


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_group_may_read_what_root_owns(open_folder):
    """Kubernetes with fsGroup, systemd with access lists: root's, mode 440."""
    assert read(write(open_folder / "secret", 0o440, owner=0)) == SECRET.encode()
    with pytest.raises(ConfigError, match="is open to others"):
        read(write(open_folder / "secret", 0o440, owner=1000))
    folder = open_folder / "credentials"
    folder.mkdir()
    file = write(folder / "secret", 0o444, owner=1000)
    folder.chmod(0o750)
    assert read(file) == SECRET.encode()
    os.chown(folder, 1000, 1000)
    with pytest.raises(ConfigError, match="is open to others"):
        read(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_closes_nothing_to_him(open_folder, monkeypatch):
    folder = open_folder / "other"
    folder.mkdir(mode=0o700)
    file = write(folder / "secret", 0o444)
    os.chown(folder, 1001, 1001)
    assert read(file) == SECRET.encode()  # root, who reads whatever users have
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="is open to others"):
        read(file)


def test_certificates_come_together_or_not_at_all(tmp_path):
    with pytest.raises(ConfigError, match="1 of them are given"):
        LinkOptions(tls_key="key.pem")
    assert LinkOptions().context(is_server=True) is None
    empty = tmp_path / "empty.pem"
    empty.touch()
    wrong = LinkOptions(tls_certificate=str(empty), tls_key=str(empty), tls_authority=str(empty))
    with pytest.raises(ConfigError, match="cannot be used"):
        wrong.context(is_server=True)


def test_both_sides_under_tls_ask_for_certificates(tmp_path):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=peer", "-keyout", "key.pem", "-out", "own.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    own, key = str(tmp_path / "own.pem"), str(tmp_path / "key.pem")
    options = LinkOptions(tls_certificate=own, tls_key=key, tls_authority=own)
    for is_server in (True, False):
        context = options.context(is_server=is_server)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.check_hostname is not is_server
        assert [one["subject"] for one in context.get_ca_certs()] == [((("commonName", "peer"),),)]


def test_ucx_needs_its_package_and_a_secret(tmp_path, monkeypatch):
    profile = Profile("gateway", "gate", 4, 4, 1, 8, image_token_id=7)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"internvl35\[ucx\]"):
        LinkOptions(ucx=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="needed: a secret"):
        LinkOptions(ucx=True).identify(profile, bytes(16))
    file = tmp_path / "link"
    file.write_text(SECRET)
    file.chmod(0o600)
    assert LinkOptions(str(file), ucx=True).identify(profile, bytes(16)).has_ucx
