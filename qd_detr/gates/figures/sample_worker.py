"""A worker process of `SampleFigurePool`: reads samples from standard input, answers None or the error to standard output."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from typing import IO

from qd_detr.gates.figures.sample import SampleFigureWriter
from qd_detr.gates.figures.sample_pool import receive, send


def _portable(error: Exception) -> object:
    """Give the error itself if it can be sent, else None; its traceback goes along as text in any case."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does when pickled: the text says it all
        return None
    return error


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Write figures until `requests` ends."""
    try:
        writer = SampleFigureWriter(*receive(requests))
        while True:
            path, data = receive(requests)
            try:
                writer.write(data, path)
            except Exception as error:
                send(answers, (_portable(error), traceback.format_exc()))
            else:
                send(answers, None)
    except (EOFError, BrokenPipeError):
        return


def main() -> int:
    """Serve the parent over this process's standard streams."""
    # Ctrl-C reaches every process of the terminal; the parent decides, and the worker ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever prints must not print into the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
