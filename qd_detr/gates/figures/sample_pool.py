"""Many sample figures at once, on several cores, while the run that makes them goes on.

The workers are processes of `python -m qd_detr.gates.figures.sample_worker` that are sent one sample at a time. They are not
made with `multiprocessing`, whose new processes run the user's script again: that script need not be guarded by
`if __name__ == "__main__"`, and what it imports (torch) would cost each worker seconds and hundreds of megabytes.
"""

from __future__ import annotations

import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from qd_detr.gates.errors import RunError
from qd_detr.gates.figures.sample import SampleFigureWriter
from qd_detr.gates.figures.sample_data import SampleData
from qd_detr.gates.figures.style import SAMPLE_DPI, FigureScale

Progress = Callable[[int], None]
_LENGTH = struct.Struct("<Q")
_WAITING_PER_WORKER = 4


class FigureError(RunError):
    """A figure could not be made; the message names its sample."""


def send(pipe: IO[bytes], value: object) -> None:
    """Write one pickled value, its length first."""
    packed = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(packed)))
    pipe.write(packed)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Read what `send` wrote.

    Raises:
        EOFError: The other side is gone.
    """
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    packed = pipe.read(length)
    if len(packed) < length:
        raise EOFError
    return pickle.loads(packed)


def usable_cores() -> int:
    """Give the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class SampleFigurePool:
    """Writes sample figures in worker processes; `submit` waits when the workers fall behind, so memory stays bounded.

    Use it as a context manager: leaving it waits for all figures, or after an error ends the workers at once.

    Args:
        directory: Where the files go; it must exist.
        scale: The report's scale.
        dpi: Pixels per inch of png files.
        workers: Number of processes; 0 draws in this one; None takes one per usable core.
        progress: Called with the number of figures written so far, in the thread that calls `submit` or `close`.
    """

    def __init__(
        self,
        directory: str | Path,
        scale: FigureScale | None = None,
        dpi: float = SAMPLE_DPI,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if workers is not None and workers < 0:
            raise ValueError(f"workers must be 0 or more, got {workers}")
        self.directory = Path(directory)
        self.written = 0
        self._progress = progress
        self._told = 0
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._writer = SampleFigureWriter(scale, dpi)
        n_workers = usable_cores() if workers is None else workers
        self._queue: queue.Queue[tuple[str, SampleData] | None] = queue.Queue(max(1, n_workers * _WAITING_PER_WORKER))
        # Without a known interpreter (an embedded Python) there is nothing to start workers with.
        for _ in range(n_workers if sys.executable else 0):
            self._start_worker(self._writer.scale, dpi)

    def _start_worker(self, scale: FigureScale, dpi: float) -> None:
        package_root = str(Path(__file__).resolve().parents[3])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        # One thread each: the processes are the parallelism, and BLAS threads would only get in one another's way.
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "qd_detr.gates.figures.sample_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._processes.append(process)
        thread = threading.Thread(target=self._serve, args=(process, scale, dpi), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, process: subprocess.Popen[bytes], scale: FigureScale, dpi: float) -> None:
        """Hand samples to one worker until told to stop; after an error only empty the queue, so that no one waits."""
        assert process.stdin is not None
        assert process.stdout is not None
        greeted = False
        while (item := self._queue.get()) is not None:
            name, data = item
            if self._error is not None:
                continue
            try:
                if not greeted:
                    send(process.stdin, (scale, dpi))
                    greeted = True
                send(process.stdin, (str(self.directory / name), data))
                failure = receive(process.stdout)
            except (EOFError, OSError) as error:
                self._fail(
                    FigureError(f"figure of sample {data.sample_id}: its process ended ({error or 'no answer'})")
                )
                continue
            except Exception as error:  # what cannot be pickled, say; raised again in the caller's thread
                self._fail(_failed(data.sample_id, error))
                continue
            if failure is not None:
                original, trace = failure
                if not isinstance(original, BaseException):
                    original = RuntimeError(trace)
                original.add_note(f"in the worker process:\n{trace}")
                self._fail(_failed(data.sample_id, original))
                continue
            with self._lock:
                self.written += 1

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error

    def _tell(self) -> None:
        if self._error is not None:
            raise self._error
        written = self.written
        if self._progress is not None and written > self._told:
            self._told = written
            self._progress(written)

    def submit(self, name: str, data: SampleData) -> None:
        """Have the figure of `data` written to the file `name` in the directory.

        Raises:
            FigureError: This or an earlier figure could not be made; it names the sample.
        """
        self._tell()
        if self._threads:
            self._queue.put((name, data))
            return
        try:
            self._writer.write(data, self.directory / name)
        except Exception as error:
            self._fail(_failed(data.sample_id, error))
        else:
            self.written += 1
        self._tell()

    def close(self) -> int:
        """Wait for all figures, end the workers, and give the number of figures written."""
        try:
            for _ in self._threads:
                self._queue.put(None)
            for thread in self._threads:
                while thread.is_alive():
                    thread.join(0.2)
                    if self._error is None:
                        self._tell()
        finally:
            self._end_workers()
        self._tell()
        return self.written

    def _end_workers(self) -> None:
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:
                        continue  # the worker is gone already, and what was left to send with it
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        self._threads.clear()

    def abandon(self) -> None:
        """End the workers without waiting for the figures still in the queue."""
        self._fail(FigureError("the figures were abandoned"))
        for process in self._processes:
            process.kill()
        threads = list(self._threads)
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            thread.join()
        self._end_workers()

    def __enter__(self) -> SampleFigurePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def _failed(sample_id: str, error: BaseException) -> FigureError:
    failed = FigureError(f"figure of sample {sample_id}: {error}")
    failed.__cause__ = error
    return failed


def write_sample_figures(
    items: Iterable[tuple[str, SampleData]],
    directory: str | Path,
    scale: FigureScale | None = None,
    dpi: float = SAMPLE_DPI,
    workers: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Write a figure per item, and give their number.

    Args:
        items: Pairs of file name (its suffix decides the format) and sample; taken one by one as workers become free.
        directory: Where the files go; it must exist.
        scale: The report's scale.
        dpi: Pixels per inch of png files.
        workers: Number of processes; 0 draws in this one; None takes one per usable core.
        progress: Called now and then with the number of figures written so far.

    Raises:
        FigureError: A figure could not be made; the message names the sample.
    """
    with SampleFigurePool(directory, scale, dpi, workers, progress) as pool:
        for name, data in items:
            pool.submit(name, data)
    return pool.written
