"""A command as the child of another process: it is told to end when that process is gone.

Run as ``python -m internvl35.commands.child COMMAND...`` with a pipe as standard input, which the
parent holds open. Children are kept by :mod:`internvl35.serve.dvd.children`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    from internvl35.cli import main

    threading.Thread(target=_end_with_parent, name="watches the parent", daemon=True).start()
    main(sys.argv[1:])
