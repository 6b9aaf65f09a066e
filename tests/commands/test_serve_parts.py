"""``serve vision`` and ``serve language``: what they refuse before anything is loaded."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from internvl35 import cli
from internvl35.serve import server_process

ROLES = ("vision", "language")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ending:
        cli.main(["serve", *arguments])
    captured = capsys.readouterr()
    return ending.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize("role", ROLES)
def test_a_check_looks_at_port_checkpoint_and_secret(capsys, tmp_path, role):
    code, out, err = run(capsys, role, "--check", "--listen", "127.0.0.1:0")
    assert (code, err) == (0, "")
    assert out.startswith("usable: ")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = run(capsys, role, "--check", "--listen", address)
    assert (code, f"nobody can listen at {address}" in err) == (2, True)
    code, _, err = run(capsys, role, "--check", "--model", str(tmp_path), "--listen", "[::1]:0")
    assert (code, "config.json" in err) == (2, True)
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("short")
    code, _, err = run(capsys, role, "--check", "--secret-file", str(secret))
    assert (code, "the secret has 5 bytes" in err) == (2, True)
    assert "short" not in err


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:8101"])
def test_an_address_that_others_reach_needs_a_secret_or_certificates(capsys, role, address):
    code, _, err = run(capsys, role, "--check", "--listen", address)
    assert (code, "everyone could connect" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--listen", "nowhere"), "'nowhere' is no address"),
        (("--listen", "127.0.0.1:70000"), "is no address"),
        (("--drain-timeout-s", "0"), "drain_timeout_s is 0"),
        (("--max-requests", "0"), "max_requests is 0"),
        (("--max-request-tiles", "0"), "max_request_tiles is 0"),
        (("--tls-key", "key.pem"), "--tls-certificate, --tls-key and --tls-authority together"),
        (("--model", "/nowhere"), "/nowhere"),
    ],
)
@pytest.mark.parametrize("role", ROLES)
def test_options_that_cannot_be_followed_are_refused(capsys, role, arguments, told):
    code, _, err = run(capsys, role, "--check", *arguments)
    assert (code, told in err) == (2, True), err


def test_options_in_front_of_a_role_are_refused(capsys):
    code, _, err = run(capsys, "--max-tiles", "4", "vision", "--check")
    assert (code, "--max-tiles stands in front of vision" in err) == (2, True)


def test_a_server_whose_thread_ends_ends_with_a_failure(capsys, monkeypatch):
    """So that whoever watches it starts it anew."""
    from internvl35.serve.vision.service import VisionService

    async def fail(self):
        raise KeyError("planted")

    monkeypatch.setattr(VisionService, "wait_failed", fail)
    code, _, err = run(capsys, "vision", "--listen", "127.0.0.1:0")
    assert code == 1
    assert "vision server listening at 127.0.0.1:" in err
    assert "KeyError: 'planted'" in err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_server_whose_work_stands_still_ends_at_once(capsys, monkeypatch):
    """Its thread could not be waited for."""
    from internvl35.serve.link_server import LinkServer

    async def see(self):
        assert self.load.stalled_s == 0

    def end(code):
        raise KeyError(f"ends with {code}")

    monkeypatch.setattr(LinkServer, "wait_stalled", see)
    monkeypatch.setattr(server_process.os, "_exit", end)
    code, _, err = run(capsys, "language", "--listen", "127.0.0.1:0")
    assert (code, "KeyError: 'ends with 1'" in err) == (1, True)
    assert "work stands still; the process ends, to be started anew" in err


def test_a_signal_ends_a_server_in_peace(capsys, monkeypatch):
    run_server = server_process.run_server

    async def run_and_end(server, service, timeout_s, tell):
        def told(port):
            tell(port)
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()

        await run_server(server, service, timeout_s, told)

    monkeypatch.setattr(server_process, "run_server", run_and_end)
    for role in ROLES:
        code, _, err = run(capsys, role, "--listen", "127.0.0.1:0")
        assert code == 0
        assert f"{role} server listening at" in err
