"""What can be wrong with a video, and what to do about it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from shards.errors import UserError

# Code → the command that mends it; {path} is the file, {fixed} a name beside it. Empty: nothing does.
_REENCODE = "ffmpeg -err_detect ignore_err -i {path} -an -c:v libx264 -crf 18 {fixed}"

BAD: dict[str, str] = {
    "missing-file": "vidprep index ROOT -o manifest.jsonl",
    "empty-file": "",
    "not-a-video": "",
    "no-video-stream": "",
    "unknown-codec": "",
    "undecodable": "",
    "nothing-between": "",
    "crashed": _REENCODE,
    "timeout": _REENCODE,
    "memory": "",
}
"""The video has no sample."""

WARNINGS: dict[str, str] = {
    "decode-errors": _REENCODE,
    "fewer-frames-than-header": _REENCODE,
    "one-frame": "",
    "no-times": "",
    "times-repaired": _REENCODE,
    "size-changes": _REENCODE,
    "colours-guessed": "ffmpeg -i {path} -an -vf format=yuv420p -colorspace bt709 -c:v libx264 -crf 18 {fixed}",
}
"""The video was packed all the same."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something about a video that a user should know; `code` is a key of WARNINGS."""

    code: str
    message: str
    command: str


class BadVideo(UserError):  # noqa: N818 - the video is what is wrong, not the program
    """A file that gives no frames. `code` is a key of BAD, `command` what may mend it (or nothing does: "")."""

    def __init__(self, code: str, path: str, reason: str) -> None:
        self.code = code
        self.reason = reason
        self.command = repair(code, path)
        super().__init__(f"{path}: {reason} ({code})" + (f"; try: {self.command}" if self.command else ""))


def note(code: str, path: str, message: str) -> Note:
    return Note(code=code, message=message, command=repair(code, path))


def repair(code: str, path: str) -> str:
    """The command that mends a verdict on this file, ready for a shell; empty where nothing does."""
    stem = path.rsplit(".", 1)[0] if "." in path.rsplit("/", 1)[-1] else path
    command = BAD[code] if code in BAD else WARNINGS[code]
    return command.format(path=shlex.quote(path), fixed=shlex.quote(f"{stem}.fixed.mp4"))
