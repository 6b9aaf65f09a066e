"""The Ray Serve application: settings, who is where, how many, and one that runs here."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from internvl35.errors import ConfigError
from internvl35.serve.ray.directory import Directory
from internvl35.serve.ray.scaling import QUEUE, QueuePolicy
from internvl35.serve.ray.settings import RaySettings

ROOT = Path(__file__).parents[2]


def test_arguments_are_read_as_texts_or_numbers(tmp_path):
    (tmp_path / "link").write_text(f"{'x' * 40}\n")
    given = {
        "model": "8B", "max_vision": "3", "num_gpus": "0.5", "min_vision": 2,
        "secret_file": str(tmp_path / "link"),
    }  # fmt: skip
    settings = RaySettings.read(given)
    assert (settings.max_vision, settings.num_gpus, settings.min_vision) == (3, 0.5, 2)
    assert settings.secret == "x" * 40
    assert "xxx" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_visoin": 3}, "max_visoin"), ({"max_vision": "many"}, "many"),
        ({"min_vision": 5, "max_vision": 4}, "max_vision"), ({"secret": "s"}, "secret_file"),
        ({"secret_file": "/no/such"}, "no/such"), ({"dtype": "int3"}, "dtype"),
        ({"drain_timeout_s": 0}, "drain_timeout_s"), ({"log_form": "xml"}, "log_form"),
        ({"trace_share": "2"}, "trace_share"), ({"num_cpus": float("nan")}, "num_cpus"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_used_are_refused(given, told):
    with pytest.raises(ConfigError, match=told):
        RaySettings.read(given)


def test_two_applications_have_two_secrets():
    assert RaySettings().secret != RaySettings().secret
    assert len(RaySettings().secret) == 64


def test_a_directory_knows_who_spoke_lately():
    now = 100.0
    directory = Directory(forget_after_s=10.0, clock=lambda: now)
    directory.announce("vision", "a", 2)
    directory.announce("vision", "a", 1)
    directory.announce("language", "b", 3)
    assert directory.find("vision") == [("a", 1), ("a", 2)]
    now = 108.0
    directory.announce("vision", "a", 2)
    directory.withdraw("language", "b", 3)
    directory.withdraw("language", "b", 3)
    now = 111.0
    assert directory.find("vision") == [("a", 2)]
    assert directory.find("language") == []


@pytest.mark.parametrize(
    ("queues", "wanted"),
    [({}, 3), ({"a": 0.0}, 0), ({"a": 1.0}, 1), ({"a": 64.0, "b": 0.0}, 1), ({"a": 64.1}, 2),
     ({"a": 100.0, "b": 100.0}, 4)],
)  # fmt: skip
def test_there_are_as_many_servers_as_queues_need(queues, wanted):
    metrics = {QUEUE: queues} if queues else None
    context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=3)
    assert QueuePolicy(64)(context) == (wanted, {})


def test_what_rays_own_processes_load_needs_no_torch():
    code = (
        "import sys, internvl35.serve.ray.directory, internvl35.serve.ray.scaling;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_replica_whose_work_stands_still_is_not_healthy():
    pytest.importorskip("ray", reason="needs the extra ray")
    from internvl35.serve.ray.servers import VisionReplica

    async def check():
        has_failed, stands_still = (asyncio.get_running_loop().create_future() for _ in range(2))
        replica = SimpleNamespace(_ends=[has_failed, stands_still])
        await VisionReplica.check_health(replica)
        stands_still.set_result(None)
        with pytest.raises(RuntimeError, match="stands still"):
            await VisionReplica.check_health(replica)

    asyncio.run(check())


def test_a_replica_that_is_taken_away_while_it_loads_just_ends():
    pytest.importorskip("ray", reason="needs the extra ray")
    from internvl35.serve.ray.servers import VisionReplica

    asyncio.run(VisionReplica.__del__(SimpleNamespace(_announcing=None)))


def ask(port, picture):
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "How many red circles are there?"},
    ]
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0}
    return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=120)


@pytest.mark.slow
def test_an_application_answers_as_a_chat_does_and_outlives_a_vision_server(
    monkeypatch, tmp_path, unused_port
):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    psutil = pytest.importorskip("psutil", reason="needs the extra ray")
    from ray import serve

    from internvl35 import SamplingSettings, load
    from internvl35.serve.ray import build

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # or a busy machine never lets it begin
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), *sys.path]))
    picture = (ROOT / "examples" / "shapes.png").read_bytes()
    expected = load("tiny").ask(
        "How many red circles are there?", [picture], sampling=SamplingSettings()
    )
    ray.init(num_cpus=4, include_dashboard=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": unused_port})
        serve.run(build({"model": "tiny", "max_vision": "2"}), name="internvl35")
        answer = ask(unused_port, picture).json()
        assert answer["choices"][0]["message"]["content"] == expected.text
        assert answer["usage"]["prompt_tokens"] == expected.num_prompt_tokens
        (vision,) = [
            one
            for one in psutil.Process().children(recursive=True)
            if "ServeReplica:internvl35:vision" in " ".join(one.cmdline())
        ]
        vision.kill()
        ends = time.monotonic() + 300
        while (found := ask(unused_port, picture)).status_code != 200:
            assert found.status_code == 503, found.text
            assert time.monotonic() < ends
            time.sleep(1)
        assert found.json()["choices"] == answer["choices"]
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.slow
def test_servers_come_with_a_queue_and_go_without_it(monkeypatch, tmp_path):
    """By Ray itself and the settings of an application, with replicas that only tell a queue."""
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    from ray import serve

    from internvl35.serve.ray.application import scale

    queue, gone = tmp_path / "queue", tmp_path / "gone"
    queue.write_text("0")
    gone.touch()

    class Replica:
        def record_autoscaling_stats(self):
            return {"queue": float(queue.read_text())}

        def __del__(self):
            with gone.open("a") as file:
                file.write("x")

    def wait_for(num_servers):
        ends = time.monotonic() + 300
        while True:
            found = serve.status().applications["scaled"].deployments["language"].replica_states
            states = {getattr(state, "value", state): count for state, count in found.items()}
            if states == {"RUNNING": num_servers}:
                return
            assert time.monotonic() < ends, states
            time.sleep(0.5)

    settings = RaySettings(upscale_delay_s=1, downscale_delay_s=1, num_cpus=0.1)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # or a busy machine never lets it begin
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), *sys.path]))
    ray.init(num_cpus=4, include_dashboard=False)
    try:
        serve.start(proxy_location="Disabled")
        serve.run(scale(Replica, "language", settings, (1, 3, 16)).bind(), name="scaled")
        wait_for(1)
        queue.write_text("17")  # of each server
        wait_for(3)
        assert gone.read_text() == ""
        queue.write_text("0")
        wait_for(1)
        assert gone.read_text() == "xx"
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]
