"""Many sample figures at once, on several cores, while the run that makes them goes on.

The workers are processes of this module that are sent samples, each in its turn, over standard input. One that falls behind
leaves its pipe full, and the run waits: memory stays bounded. They are not made with `multiprocessing`, whose new processes
run the user's script again: that script need not be guarded by `if __name__ == "__main__"`, and what it imports (torch)
would cost each worker seconds and hundreds of megabytes.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from qd_detr.gates.errors import RunError
from qd_detr.gates.figures.sample import SampleFigureWriter
from qd_detr.gates.figures.sample_data import SampleData
from qd_detr.gates.figures.style import SAMPLE_DPI, FigureScale, house_style

_WRITTEN = b"."  # a worker's answer to a figure; an error, pickled, never begins so


class FigureError(RunError):
    """A figure could not be made; the message names its sample."""


def usable_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_sample_figures(
    items: Iterable[tuple[str, SampleData]],
    directory: str | Path,
    scale: FigureScale | None = None,
    dpi: float = SAMPLE_DPI,
    workers: int | None = None,
    progress: Callable[[int], object] = lambda written: None,
) -> int:
    """Write a figure per item, and return their number.

    Args:
        items: pairs of file name (its suffix decides the format) and sample; taken one by one as workers become free.
        directory: where the files go; it must exist.
        scale: the report's scale.
        dpi: pixels per inch of png files.
        workers: number of processes; 0 draws in this one; None takes one per usable core.
        progress: called now and then with the number of figures written so far.

    Raises:
        FigureError: a figure could not be made; the message names the sample.
    """
    writer, directory, done = SampleFigureWriter(scale, dpi), Path(directory), 0
    workers = usable_cores() if workers is None else workers
    if not workers or not sys.executable:  # an embedded Python has nothing to start workers with
        for done, (name, data) in enumerate(items, 1):
            try:
                writer.write(data, directory / name)
            except Exception as error:
                raise _failed(data.sample_id, error) from error
            progress(done)
        return done
    with ExitStack() as running:
        team = [_Worker(writer.scale, dpi, running) for _ in range(workers)]
        for i, (name, data) in enumerate(items):
            team[i % workers].draw(data, directory / name)
            progress(sum(worker.written for worker in team))
        for worker in team:
            worker.finish()
            progress(sum(worker.written for worker in team))
        return sum(worker.written for worker in team)


class _Worker:
    """A process that draws. It answers into a file, which unlike a pipe is never full and can be looked at any time."""

    def __init__(self, scale: FigureScale, dpi: float, running: ExitStack) -> None:
        paths = [str(Path(__file__).resolve().parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
        # One thread each: the processes are the parallelism, and BLAS threads would only get in one another's way.
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._ids: list[str] = []
        self._answers = running.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=self._answers,
            env=os.environ | one_thread | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        running.callback(self._end)
        self._how: tuple[object, ...] = (scale, dpi)  # goes out with the first sample

    @property
    def written(self) -> int:
        """How many figures it has written."""
        return min(os.fstat(self._answers.fileno()).st_size, len(self._ids))

    def draw(self, data: SampleData, path: Path) -> None:
        """Have it draw a sample, once it has room for one; raise FigureError of this or of an earlier one."""
        assert self._process.stdin is not None
        try:
            packed = pickle.dumps((data, str(path), *self._how), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # what cannot be pickled
            raise _failed(data.sample_id, error) from error
        self._how = ()
        self._ids.append(data.sample_id)
        try:
            self._process.stdin.write(packed)
            self._process.stdin.flush()
        except OSError:  # it has ended; why, it has said
            self.finish()

    def finish(self) -> None:
        """Wait until all of its figures are written; raise FigureError of one that is not."""
        self._close()
        self._process.wait()
        self._answers.seek(0)
        answers = self._answers.read()
        told = answers.lstrip(_WRITTEN)
        written = len(answers) - len(told)
        if told:
            error, trace = pickle.loads(told)
            error = error or RuntimeError(trace)
            error.add_note(f"in the worker process:\n{trace}")
            raise _failed(self._ids[written], error) from error
        if written < len(self._ids):
            status = self._process.returncode
            raise FigureError(f"figure of sample {self._ids[written]}: its process ended (status {status})")

    def _close(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            return  # it has ended, and what was left to send with it

    def _end(self) -> None:
        self._process.kill()
        self._close()
        self._process.wait()


def _failed(sample_id: str, error: BaseException) -> FigureError:
    return FigureError(f"figure of sample {sample_id}: {error}")


def _serve() -> None:
    """Draw what comes over standard input until it ends; answer every figure, or with the error that ends it all."""
    # Ctrl-C reaches every process of the terminal; the parent decides, and the worker ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever prints must not print into the answers
    writer = SampleFigureWriter()
    with house_style():
        while True:
            try:
                data, path, *how = pickle.load(sys.stdin.buffer)
            except (EOFError, pickle.UnpicklingError):  # the parent is done, or was killed at half a sample
                return
            try:
                writer = SampleFigureWriter(*how) if how else writer
                writer.write(data, path)
            except Exception as error:
                os.write(answers, pickle.dumps((_portable(error), traceback.format_exc())))
                return
            os.write(answers, _WRITTEN)


def _portable(error: Exception) -> Exception | None:
    """Return the error if it can be sent, else None; its traceback goes along as text in any case."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does when pickled: the text says it all
        return None


if __name__ == "__main__":
    _serve()
