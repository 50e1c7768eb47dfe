"""Opening files: what a header says, and whose fault it is when nothing does."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from shards.errors import StorageError, UserError
from tests.vidprep.clips import noise_frames, write_clip, write_sound
from vidprep.decode import decode
from vidprep.probe import probe
from vidprep.sources import check_readable
from vidprep.verdicts import BAD, WARNINGS, BadVideo, repair


def test_header_facts(tmp_path: Path) -> None:
    info = probe(write_clip(tmp_path / "a.mp4", noise_frames(10), fps=20))
    assert (info.height, info.width, info.fps, info.frames, info.codec) == (48, 64, 20.0, 10, "mpeg4")
    assert info.duration == pytest.approx(0.5)
    assert probe(f"file://{tmp_path}/a.mp4") == info


@pytest.mark.parametrize("name", ["a:b.mp4", "te[s]t ' %03d.mp4", "短い.mp4", os.fsdecode(b"caf\xe9.mp4"), "-i.mp4"])
def test_any_file_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(write_clip(tmp_path / "plain.mp4", noise_frames(3)).read_bytes())
    assert probe(tmp_path / name).frames == 3
    monkeypatch.chdir(tmp_path)
    assert sum(1 for _ in decode(name)) == 3


def bad_code(path: Path) -> str:
    with pytest.raises(BadVideo) as caught:
        list(decode(path))
    assert str(path) in str(caught.value) and caught.value.code in BAD
    return caught.value.code


def test_files_that_give_nothing(tmp_path: Path) -> None:
    assert bad_code(tmp_path / "none.mp4") == "missing-file"
    assert bad_code(tmp_path / "none.mp4" / "below.mp4") == "missing-file"
    (tmp_path / "zero.mp4").touch()
    assert bad_code(tmp_path / "zero.mp4") == "empty-file"
    (tmp_path / "text.mp4").write_text("not a video, though its name says so\n" * 50)
    assert bad_code(tmp_path / "text.mp4") == "not-a-video"
    (tmp_path / "folder.mp4").mkdir()
    assert bad_code(tmp_path / "folder.mp4") == "not-a-video"
    os.mkfifo(tmp_path / "pipe.mp4")
    assert bad_code(tmp_path / "pipe.mp4") == "not-a-video"
    assert bad_code(write_sound(tmp_path / "sound.wav")) == "no-video-stream"
    whole = write_clip(tmp_path / "whole.avi", noise_frames(3)).read_bytes()
    (tmp_path / "header.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    assert bad_code(tmp_path / "header.avi") in ("undecodable", "not-a-video")


def test_a_playlist_does_not_reach_other_files(tmp_path: Path) -> None:
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://192.0.2.1/a.ts\n")
    assert bad_code(tmp_path / "list.mp4") in ("not-a-video", "no-video-stream", "undecodable")


def test_a_disk_that_fails_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", noise_frames(3))
    (tmp_path / "text.mp4").write_text("no video")
    real_open = Path.open

    def fail_with(number: int) -> None:
        def failing(self: Path, *args: Any, **kwargs: Any) -> Any:
            if self.suffix == ".mp4":
                raise OSError(number, os.strerror(number), str(self))
            return real_open(self, *args, **kwargs)

        monkeypatch.setattr(Path, "open", failing)

    for number in (errno.EACCES, errno.EIO, errno.ESTALE):
        fail_with(number)
        with pytest.raises(StorageError, match=r"a\.mp4.*run the same command again"):
            list(decode(path))
        with pytest.raises(StorageError):
            check_readable(str(tmp_path / "text.mp4"))


def test_a_read_error_behind_a_failed_open_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_text("no video")

    def unreadable(name: str) -> None:
        raise StorageError(f"cannot read {name}")

    monkeypatch.setattr("vidprep.probe.check_readable", unreadable)
    with pytest.raises(StorageError):
        list(decode(tmp_path / "a.mp4"))


def test_other_schemes_say_what_to_do() -> None:
    with pytest.raises(UserError, match=r"ftp://host/a\.mp4.*--root"):
        list(decode("ftp://host/a.mp4"))


def test_repairs_are_ready_for_a_shell() -> None:
    for code in {**BAD, **WARNINGS}:
        command = repair(code, "/videos/it's here.mp4")
        assert command == "" or command.split()[0] in ("ffmpeg", "vidprep")
        if "ffmpeg" in command:
            assert "'/videos/it'\"'\"'s here.mp4'" in command and "here.fixed.mp4" in command
