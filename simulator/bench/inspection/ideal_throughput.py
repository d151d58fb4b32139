"""Upper bounds of throughput: inference alone and preprocessing alone on every core."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np

from agent.preprocess import Preprocessor

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ports import Model
    from agent.records import Box, Pixels


def throughput_on_threads(make: Callable[[int], Callable[[], None]], *, threads: int, calls: int) -> float:
    """Call `make(thread)()` `calls` times in all on `threads` threads; returns calls per second."""
    barrier = threading.Barrier(threads + 1)
    each = calls // threads

    def work(thread: int) -> None:
        call = make(thread)
        call()
        barrier.wait()
        for _ in range(each):
            call()

    workers = [threading.Thread(target=work, args=(i,), name=f"floor-{i}") for i in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return each * threads / (time.perf_counter() - began)


def inference_throughput(model: Model, inputs: Pixels, *, threads: int, calls: int) -> float:
    """Frames per second of inference alone, every output computed; `inputs` [N, H, W, C] are preprocessed frames."""

    def make(thread: int) -> Callable[[], None]:
        position = thread

        def call() -> None:
            nonlocal position
            position = (position + 1) % len(inputs)
            model.infer(inputs[position : position + 1])

        return call

    return throughput_on_threads(make, threads=threads, calls=calls)


def preprocess_throughput(model: Model, frames: list[Pixels], *, roi: Box | None, threads: int, calls: int) -> float:
    """Frames per second of preprocessing alone, as the workers do it."""

    def make(thread: int) -> Callable[[], None]:
        preprocessor = Preprocessor(model.geometry, roi=roi)
        tiles = len(preprocessor.plan_for(frames[0]).tiles)
        out = np.empty((tiles, model.geometry.height, model.geometry.width, model.geometry.channels), np.uint8)
        position = thread

        def call() -> None:
            nonlocal position
            position = (position + 1) % len(frames)
            preprocessor.write_to(frames[position], out)

        return call

    return throughput_on_threads(make, threads=threads, calls=calls)


def area_resize_throughput(model: Model, frames: list[Pixels], *, threads: int, calls: int) -> float:
    """Frames per second of one INTER_AREA resize straight to the input's size: the reference for quality."""

    def make(thread: int) -> Callable[[], None]:
        out = np.empty((model.geometry.height, model.geometry.width, 3), np.uint8)
        position = thread

        def call() -> None:
            nonlocal position
            position = (position + 1) % len(frames)
            size = (model.geometry.width, model.geometry.height)
            cv2.resize(frames[position], size, dst=out, interpolation=cv2.INTER_AREA)

        return call

    return throughput_on_threads(make, threads=threads, calls=calls)


def rmse_against_area_resize(model: Model, frames: list[Pixels], *, roi: Box | None) -> float:
    """Root mean square difference, grey levels, between the pyramid and direct INTER_AREA over `frames`."""
    geometry = model.geometry
    preprocessor = Preprocessor(geometry, roi=roi)
    x, y, w, h = roi or (0, 0, frames[0].shape[1], frames[0].shape[0])
    out = np.empty((1, geometry.height, geometry.width, geometry.channels), np.uint8)
    squares = 0.0
    for frame in frames:
        preprocessor.write_to(frame, out)
        part = frame[y : y + h, x : x + w]
        reference = cv2.resize(part, (geometry.width, geometry.height), interpolation=cv2.INTER_AREA)
        squares += float(np.mean((out[0].astype(np.float64) - reference) ** 2))
    return float(np.sqrt(squares / len(frames)))


def preprocess_inputs(model: Model, frames: list[Pixels], *, roi: Box | None) -> Pixels:
    """Preprocess `frames` to real inputs [N, H, W, C]."""
    preprocessor = Preprocessor(model.geometry, roi=roi)
    geometry = model.geometry
    out = np.empty((len(frames), geometry.height, geometry.width, geometry.channels), np.uint8)
    for index, frame in enumerate(frames):
        preprocessor.write_to(frame, out[index : index + 1])
    return out
