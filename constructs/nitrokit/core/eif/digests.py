"""One pass over an EIF: the CRC and all measurements from the same bytes, each in a thread of its own (hashing releases Python's lock)."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from queue import Queue
from threading import Thread
from types import TracebackType

from nitrokit.core.eif.format import SectionType
from nitrokit.core.eif.source import Buffer
from nitrokit.core.measurements import Measurements, finalize

_WAITING = 8  # chunks that may wait for the slowest thread: bounds the memory
_SMALL = 1 << 16  # below this a thread costs more than it saves


class _Lane:
    """Feeds chunks to ``update``, in order, in a thread of its own once they are worth one."""

    def __init__(self, update: Callable[[Buffer], object]) -> None:
        self._update = update
        self._queue: Queue[Buffer | None] = Queue(_WAITING)
        self._thread: Thread | None = None

    def put(self, chunk: Buffer) -> None:
        if self._thread is None and len(chunk) < _SMALL:
            self._update(chunk)
            return
        if self._thread is None:
            self._thread = Thread(target=self._run, daemon=True)
            self._thread.start()
        self._queue.put(chunk)

    def finish(self) -> None:
        """Wait until all chunks are through."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (chunk := self._queue.get()) is not None:
            self._update(chunk)


class EifDigests:
    """CRC-32 and PCR0–2 of an EIF whose bytes are fed in file order. A context manager: its threads end with it.

    PCR0 measures kernel ‖ cmdline ‖ all ramdisks, PCR1 kernel ‖ cmdline ‖ first ramdisk, PCR2 the other ramdisks (aws-nitro-enclaves-image-format:README.md "EIF Measurements").
    PCR1 is PCR0's state after the first ramdisk: hashing once serves both.
    """

    def __init__(self) -> None:
        self._crc = 0
        self._image, self._application = hashlib.sha384(), hashlib.sha384()
        self._boot: bytes | None = None
        self._ramdisks = 0
        self._lanes = [_Lane(self._update_crc), _Lane(self._image.update), _Lane(self._application.update)]

    def __enter__(self) -> EifDigests:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._finish()

    def _finish(self) -> None:
        for lane in self._lanes:
            lane.finish()

    def _update_crc(self, chunk: Buffer) -> None:
        self._crc = zlib.crc32(chunk, self._crc)

    def begin_section(self, kind: SectionType) -> None:
        """A section of this type starts."""
        if kind is SectionType.RAMDISK:
            self._ramdisks += 1
            if self._ramdisks == 2:
                self._lanes[1].finish()
                self._boot = self._image.digest()

    def update(self, chunk: Buffer, *, measured: bool) -> None:
        """Bytes of the file behind the last; ``measured``: of a kernel, a command line or a ramdisk."""
        crc, image, application = self._lanes
        crc.put(chunk)
        if measured:
            image.put(chunk)
            if self._ramdisks > 1:
                application.put(chunk)

    def crc(self) -> int:
        """CRC-32 of everything fed so far."""
        self._finish()
        return self._crc

    def measurements(self) -> Measurements:
        """PCR0, PCR1 and PCR2 of the sections fed so far."""
        self._finish()
        image = self._image.digest()
        return Measurements(finalize(image), finalize(self._boot or image), finalize(self._application.digest()))
