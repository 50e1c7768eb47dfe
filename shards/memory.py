"""How much memory another process holds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int) -> int:
    """Bytes of main memory that a process holds now; 0 where there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/statm").exists():
            return 0
    # macOS has no /proc; ps counts in kibibytes there and everywhere.
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return int(done.stdout) * 1024 if done.stdout.strip().isdecimal() else 0
