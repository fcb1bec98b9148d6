"""A file system of its own in a file, whose power can be cut. Linux, root and loop devices alone."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# linux/ext4.h: at once, and the journal is not written out.
FS_IOC_SHUTDOWN: Final = 0x8004587D
NOLOGFLUSH: Final = 2
MIB: Final = 384
UNMOUNT_SECONDS_MAX: Final = 20.0


class Disk:
    """An ext4 image and where it is mounted."""

    def __init__(self, directory: Path, options: str = "loop") -> None:
        self.image = directory / "disk.img"
        self.path = directory / "disk"
        self.options = options

    def make(self, mib: int = MIB) -> None:
        """A new file system. OSError says why there can be none."""
        self.path.mkdir()
        with self.image.open("wb") as image:
            image.truncate(mib << 20)
        run("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount()

    def mount(self) -> None:
        """As after a start of the machine: the file system's own journal is played back."""
        run("mount", "-o", self.options, str(self.image), str(self.path))

    def unmount(self) -> None:
        """What a killed process had open is closed soon after it, not at once."""
        deadline = time.monotonic() + UNMOUNT_SECONDS_MAX
        while True:
            try:
                return run("umount", str(self.path))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def cut(self) -> None:
        """From now on nothing reaches the disk, and what was not synced never does."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def restart(self) -> None:
        """The power is back. Nobody has a file open."""
        self.unmount()
        self.mount()


@contextmanager
def disk_in(directory: Path, options: str = "loop") -> Iterator[Disk]:
    """A mounted disk, gone at the end of the block."""
    disk = Disk(directory, options)
    disk.make()
    try:
        yield disk
    finally:
        disk.unmount()


def why_not(directory: Path) -> str:
    """Why no power can be cut on this machine, in the words of whoever forbids it; empty if it can."""
    if os.geteuid():
        return "needs root"
    for tool in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    trial = directory / "trial"
    trial.mkdir()
    try:
        with disk_in(trial) as disk:
            (disk.path / "lost").write_bytes(b"x")
            disk.cut()
            disk.restart()
            return "" if not (disk.path / "lost").exists() else "a cut loses nothing here"
    except OSError as error:
        return str(error)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def run(*command: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise OSError(f"{' '.join(command)}: {(ran.stderr or ran.stdout).strip()}")
