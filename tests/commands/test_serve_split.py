"""``serve gateway`` and ``serve --vision 2 --language 1``: what is refused, what is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from internvl35 import cli
from internvl35.commands.chat import SystemOptions
from internvl35.commands.checkpoint import HubOptions, ModelOptions
from internvl35.commands.flash import CompressionOptions
from internvl35.commands.serve_engine import EngineOptions
from internvl35.commands.serve_front import Front, ServeOptions
from internvl35.commands.serve_split import SplitOptions, _commands
from internvl35.commands.telemetry import TelemetryOptions
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.gateway_settings import GatewaySettings

SECRET = "0123456789abcdef0123456789abcdef"
PEERS = ("--vision-peers", "127.0.0.1:7001,127.0.0.1:7002", "--language-peers", "[::1]:7003")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ending:
        cli.main(["serve", *arguments])
    captured = capsys.readouterr()
    return ending.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gateway",), "there is no vision server; give --vision-peers"),
        (("gateway", *PEERS[:2]), "there is no language server"),
        (("gateway", *PEERS[:3], "eye"), "is no address"),
        (("gateway", *PEERS[:3], "eye:0"), "holds port 0"),
        (("gateway", *PEERS, "--secret-file", "/none"), "cannot be read"),
        (("gateway", *PEERS, "--tls-key", "/none"), "1 of them are given"),
        (("--vision", "2"), "vision is 2 and language 0; needed: one of each"),
        (("--vision", "-1", "--language", "-1"), "needed: one of each"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(capsys, arguments, message):
    code, _, err = run(capsys, *arguments)
    assert (code, message in err) == (2, True), err


def test_a_check_tells_what_a_gateway_works_with(capsys, tmp_path):
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    options = ("--check", "--port", "0", "--secret-file", str(file))
    code, out, err = run(capsys, "gateway", *PEERS, *options)
    assert code == 0, err
    assert "2 vision and 1 language servers" in out
    assert SECRET not in out + err
    code, out, _ = run(capsys, "--vision", "3", "--language", "1", "--check", "--port", "0")
    assert (code, "3 vision and 1 language servers" in out) == (0, True)


def make_front(**model):
    return Front(
        ServeOptions(), GatewaySettings(drain_timeout_s=7.0), SystemOptions(), SamplingSettings(),
        CompressionOptions(), ModelOptions(model="/some/folder", dtype="bfloat16", **model),
        HubOptions(offline=True, revision="main"), TelemetryOptions(log_form="json"),
    )  # fmt: skip


def test_children_get_their_share_of_the_options_and_no_secret(tmp_path):
    front = make_front(int8=True)
    split = SplitOptions(2, 1, vision_device=("cuda:1", "cuda:2"), language_device=("cuda:0",))
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    commands = _commands(front, split, EngineOptions(), [7001, 7002, 7003], Path(secret))
    assert [command.name for command in commands] == ["vision-0", "vision-1", "language-0"]
    for number, command in enumerate(commands):
        given = " ".join(command.arguments)
        role = command.name.partition("-")[0]
        assert f"internvl35.commands.child serve {role} " in given
        assert f"--listen 127.0.0.1:{7001 + number}" in given
        for option in (
            "--model /some/folder", "--dtype bfloat16", "--revision main", "--offline",
            f"--secret-file {secret}", "--log-form json", "--drain-timeout-s 7.0",
        ):  # fmt: skip
            assert option in given
        assert SECRET not in given
        assert ("--int8" in given) == (role == "language")
    devices = [command.arguments[-1] for command in commands[:2]]
    assert devices == ["cuda:1", "cuda:2"]
    assert "--device-map cuda:0" in " ".join(commands[2].arguments)


def test_language_servers_get_adapters_and_vision_servers_do_not(tmp_path):
    engines = EngineOptions(adapter=("red=a folder", "blue=b"))
    eye, mouth = _commands(make_front(), SplitOptions(1, 1), engines, [7001, 7002], tmp_path)
    assert "adapter" not in " ".join(eye.arguments)
    assert mouth.arguments[-2:] == ("--adapter=red=a folder", "--adapter=blue=b")


def test_language_servers_with_vllm_get_its_options_and_the_gpus_of_their_own(tmp_path):
    devices = ("cuda:0,cuda:1", "cuda:2,cuda:3")
    split = SplitOptions(1, 3, vision_device=("cuda:4",), language_device=devices)
    engines = EngineOptions("vllm", "parts", 2, 1, "fp8")
    front = make_front(device_map="cpu")
    eye, *mouths = _commands(front, split, engines, [1, 2, 3, 4], tmp_path)
    assert eye.environment == {}
    seen = [mouth.environment["CUDA_VISIBLE_DEVICES"] for mouth in mouths]
    assert seen == ["0,1", "2,3", "0,1"]
    told = " ".join(mouths[0].arguments)
    assert "--engine vllm --tensor-parallel 2 --pipeline-parallel 1" in told
    assert "--parts-folder=parts --quantization=fp8" in told
    assert "device" not in told
