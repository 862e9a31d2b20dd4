"""How many bytes the particles of one chunk may take."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")  # of the container that the process is in


def chunk_bytes(most: int, device: torch.device) -> int:
    """``most``, or a quarter of the free memory of the device where that is less.

    Random numbers are drawn chunk by chunk, so results depend on the size of the chunks. ``most`` is therefore a constant,
    which every machine with four times as much free memory uses: the same seed draws the same numbers on all of them.
    """
    return min(most, free_bytes(device) // 4)


def free_bytes(device: torch.device) -> int:
    """Memory that can still be allocated on a device, under the limit of its container if there is one."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = psutil.virtual_memory().available
    try:
        limit, used = ((CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except OSError:  # no container, or another system
        return free
    if limit == "max":
        return free
    # Files that the system has read ahead count as used, but are given up when memory is needed.
    return min(free, max(int(limit) - int(used) + int(statistics["inactive_file"]), 0))
