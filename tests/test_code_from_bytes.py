"""Nothing in the package makes objects or code of bytes that others sent."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "internvl35"
MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
CALLS = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "multiprocessing.Pipe"}
METHODS = {"recv_pyobj", "send_pyobj", "from_string", "unsafe_load"}
"""Of zmq's sockets and of template libraries."""


def find_makers(source: Path) -> list[str]:
    """Name every place under ``source`` that could turn bytes into objects or code."""
    return [
        f"{path.relative_to(source)}:{node.lineno} {found}"
        for path in sorted(source.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for found in _name(node)
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Call))
    ]


def _name(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
    if isinstance(node, ast.ImportFrom):
        return [node.module] if (node.module or "").split(".")[0] in MODULES else []
    if not isinstance(node, ast.Call):
        return []
    name = ast.unparse(node.func)
    if name in CALLS or (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
        return [name]
    return [
        keyword.arg
        for keyword in node.keywords
        if keyword.arg in ("allow_pickle", "trust_remote_code")
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]


def test_nothing_makes_objects_or_code_of_bytes():
    assert find_makers(SOURCE) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import torch\ntorch.load('x', weights_only=True)",
        "eval('1')",
        "np.load('x', allow_pickle=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=flag)",
        "socket.recv_pyobj()",
        "environment.from_string(text)",
    ],
)
def test_a_planted_maker_is_found(tmp_path, line):
    (tmp_path / "x.py").write_text(line)
    assert len(find_makers(tmp_path)) == 1


def test_what_makes_nothing_is_left_alone(tmp_path):
    lines = "model.eval()\njson.loads(x)\nyaml.safe_load(x)\nnp.load('x', allow_pickle=False)"
    (tmp_path / "x.py").write_text(lines)
    assert find_makers(tmp_path) == []
