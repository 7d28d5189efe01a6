"""Indexes below the work folder: built once, with what the build cost written beside them."""

import json
import os
import shutil
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_peers import machine
from search_peers.peer import Peer
from search_peers.process import Process
from search_peers.workload import Workload


@dataclass(frozen=True)
class Store:
    """The indexes of one workload.

    Attributes:
        work: Folder for everything that the harness keeps.
        workload: What is indexed; an index of other vectors is not reused.
    """

    work: Path
    workload: Workload

    def folder(self, peer: Peer) -> Path:
        """Return the folder of the peer's index; peers that build alike share it."""
        build = json.dumps([peer.adapter, dict(peer.build), peer.requirements], sort_keys=True)
        key = f"{len(self.workload.base)}-{self.workload.fingerprint()}-{zlib.crc32(build.encode()):08x}"
        return self.work / "indexes" / f"{peer.adapter}-{key}"

    def cost(self, peer: Peer) -> dict[str, Any] | None:
        """Return what the build cost, or None if there is no index yet."""
        path = self.folder(peer) / "build.json"
        return dict(json.loads(path.read_text())) if path.exists() else None

    def build(self, peer: Peer, again: bool = False) -> None:
        """Build the peer's index in a process of its own, unless it exists and `again` is false."""
        folder = self.folder(peer)
        if self.cost(peer) is not None and not again:
            return
        partial = folder.with_suffix(".partial")
        for old in (folder, partial):
            shutil.rmtree(old, ignore_errors=True)
        partial.mkdir(parents=True)
        print(f"building {peer.title}", file=sys.stderr, flush=True)
        with Process(peer, self.work) as process:
            base = str(self.workload.base_path.absolute())
            cost = process.order("build", base=base, folder=str(partial.absolute()), options=dict(peer.build))
            cost |= {"disk_bytes": disk_bytes(partial), "versions": process.versions}
            cost["commit"] = machine.commit()
        (partial / "build.json").write_text(json.dumps(cost))
        partial.rename(folder)
        print(f"  {cost['seconds']:.0f} s, {cost['disk_bytes'] / 1e6:,.0f} MB", file=sys.stderr, flush=True)


def drop_from_page_cache(folder: Path) -> None:
    """Have the system forget the contents of all files below `folder` that no process has mapped."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)  # what is not on the disk yet cannot be dropped
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def disk_bytes(folder: Path) -> int:
    """Return the size of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def largest_file(folder: Path) -> Path:
    """Return the biggest file below `folder`: the one that a disk index reads."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
