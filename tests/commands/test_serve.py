"""``internvl35 serve``: what it refuses before anything is loaded, and its check."""

from __future__ import annotations

import socket

import pytest

from internvl35 import cli

KEY = "sk-0123456789abcdef"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    monkeypatch.delenv("INTERNVL35_API_KEYS", raising=False)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ending:
        cli.main(["serve", *arguments])
    captured = capsys.readouterr()
    return ending.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_an_address_that_others_reach_needs_keys(capsys, host):
    code, _, err = run(capsys, "--host", host)
    assert code == 2
    assert "there are no API keys; give --api-key-file, or --insecure" in err


def test_keys_come_from_file_and_variable_and_are_never_shown(capsys, tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n\n")
    monkeypatch.setenv("INTERNVL35_API_KEYS", f"{KEY}-1, {KEY}-2")
    options = ("--check", "--port", "0", "--api-key-file", str(file))
    code, out, err = run(capsys, *options)
    assert code == 0
    assert "3 API keys" in out
    assert KEY not in out + err
    monkeypatch.setenv("INTERNVL35_API_KEYS", "secret")
    code, _, err = run(capsys, *options)
    assert code == 2
    assert "secret" not in err


def test_a_file_without_keys_is_refused(capsys, tmp_path):
    (tmp_path / "empty").write_text("\n")
    code, _, err = run(capsys, "--api-key-file", str(tmp_path / "empty"))
    assert (code, "holds no key" in err) == (2, True)
    code, _, err = run(capsys, "--api-key-file", str(tmp_path / "missing"))
    assert (code, "cannot be read" in err) == (2, True)


def test_a_check_looks_at_port_and_checkpoint(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = run(capsys, "--check", "--port", str(taken.getsockname()[1]))
    assert (code, "cannot be had" in err) == (2, True)
    code, _, err = run(capsys, "--check", "--port", "0", "--model", "/no/such/folder")
    assert (code, "CheckpointError" in err) == (2, True)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--port", "70000"), ("--max-requests", "0"), ("--drain-timeout-s", "0"), ("--top-p", "2"),
     ("--served-name", ""), ("--trace-share", "2"), ("--trace-endpoint", "ftp://x")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(capsys, option, value):
    assert run(capsys, "--check", "--port", "0", option, value)[0] == 2
