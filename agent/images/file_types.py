"""Recognises image files by the suffix of their name."""

from __future__ import annotations

from typing import Final

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp"})  # what agent.images.decode decodes
# Kinds that a person may expect to be read. Other files in a folder are no images.
UNSUPPORTED_KINDS: Final = frozenset({
    ".apng", ".arw", ".avif", ".cr2", ".cr3", ".dib", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif", ".j2k", ".jfif",
    ".jp2", ".jpe", ".jxl", ".nef", ".npy", ".orf", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".raf", ".raw", ".rw2",
    ".svg", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
