"""Frames that are reached by packets are those that decoding from the beginning gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.video import Coding, decode_frames
from tests.vidprep.clips import noise_frames, write_clip, write_sound
from vidprep.decode import decode
from vidprep.foreign.videos import BadMember, Studied, study

FRAMES = 50


def _reached(studied: Studied, data: bytes, wanted: list[int]) -> tuple[np.ndarray, int]:
    """Frames, through the JSON form of the coding, and the bytes that were read for them."""
    coding, rows = Coding.of(studied.coding.tree()), studied.rows
    stored = {}
    for number in coding.needed(wanted):
        start, size = int(rows[number]["offset"]), int(rows[number]["size"])
        stored[number] = memoryview(data)[start : start + size]
    out = np.empty((len(wanted), studied.facts.height, studied.facts.width, 3), np.uint8)
    decode_frames(coding, stored, wanted, out)
    return out, sum(map(len, stored.values()))


@pytest.mark.parametrize(
    ("name", "options", "entries"),
    [
        ("closed.mp4", {"codec": "libx264", "options": {"g": "15"}}, 4),
        ("b-frames.mp4", {"codec": "libx264", "options": {"g": "15", "bf": "3"}}, 4),
        ("open-gop.mp4", {"codec": "libx264", "options": {"g": "15", "x264-params": "open-gop=1"}}, 4),
        ("rotated.mp4", {"codec": "libx264", "options": {"g": "15"}, "matrix": (0, 1, -1, 0)}, 4),
        ("part4.mp4", {"codec": "mpeg4", "options": {"g": "15", "bf": "2"}}, 4),
        ("part4.avi", {"codec": "mpeg4", "options": {"g": "15"}}, 4),
        ("motion.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}, 5),
        ("stills.mp4", {"codec": "png", "pix_fmt": "rgb24"}, 5),  # every packet must be told to be a key frame
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"g": "15"}}, 4),
        ("vp8.webm", {"codec": "libvpx", "options": {"g": "15", "auto-alt-ref": "1"}}, 4),
        ("h264.mkv", {"codec": "libx264", "options": {"g": "15"}}, 4),
        ("hevc.mp4", {"codec": "libx265", "options": {"g": "15", "x265-params": "log-level=none"}}, 4),
    ],
)
def test_every_frame_is_the_one_that_playing_shows(
    tmp_path: Path, name: str, options: dict[str, Any], entries: int
) -> None:
    path = write_clip(tmp_path / name, noise_frames(FRAMES), **options)
    truth = np.stack([image for image, _ in decode(path)])
    data = path.read_bytes()
    studied = study(data)
    assert len(studied.coding.entries) == entries
    assert np.array_equal(studied.rows["time_us"], studied.facts.times_us)
    rng = np.random.default_rng(0)
    for wanted in ([0], [FRAMES - 1], list(range(FRAMES)), *rng.integers(0, FRAMES, (8, 5)).tolist()):
        images, _ = _reached(studied, data, wanted)
        assert np.array_equal(images, truth[wanted])


def test_a_clip_costs_the_packets_it_needs(tmp_path: Path) -> None:
    data = write_clip(
        tmp_path / "a.mp4", noise_frames(120), codec="libx264", options={"g": "12", "bf": "0"}
    ).read_bytes()
    studied = study(data)
    _, read = _reached(studied, data, [24, 25])
    packets = studied.rows["size"][24 : 26 + studied.coding.delay]
    assert read == packets.sum() < len(data) / 10


def test_what_cannot_be_reached_by_packets_is_read_whole(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "raw.avi", noise_frames(20), codec="rawvideo", pix_fmt="bgr24")
    truth, data = np.stack([image for image, _ in decode(path)]), path.read_bytes()
    studied = study(data)
    assert studied.coding.packets == 0 and set(studied.rows["size"].tolist()) == {len(data)}
    images, read = _reached(studied, data, [19, 3, 3])
    assert np.array_equal(images, truth[[19, 3, 3]]) and read == len(data)


def test_a_damaged_stream_gives_the_frames_that_play_and_says_so(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", noise_frames(FRAMES), codec="libx264", options={"g": "15"})
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 1200
    data[at : at + 400] = bytes(400)
    path.write_bytes(data)
    truth = np.stack([image for image, _ in decode(path)])
    studied = study(bytes(data))
    assert any(note.code == "decode-errors" for note in studied.notes)
    images, _ = _reached(studied, bytes(data), list(range(len(truth))))
    assert np.array_equal(images, truth)


def test_changed_bytes_are_an_error_not_a_picture(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "a.mp4", noise_frames(20), codec="libx264").read_bytes()
    studied = study(data)
    out = np.empty((1, 48, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="its video"):
        decode_frames(studied.coding, {n: memoryview(b"\0" * 40) for n in range(20)}, [3], out)


@pytest.mark.data
@pytest.mark.parametrize("folder", ["hmdb51", "ucf101", "something_something_v2", "odd"])
def test_real_videos(research_data: Path, folder: str) -> None:
    """HMDB51's streams have packed B-frames, and packets that hold no picture."""
    paths = sorted(it for it in (research_data / "clips" / folder).rglob("*") if it.suffix in (".mp4", ".avi", ".webm"))
    small = [path for path in paths if 0 < path.stat().st_size < 600_000][:8]
    assert small
    for path in small:
        data = path.read_bytes()
        try:
            studied = study(data)
        except BadMember as bad:
            assert folder == "odd", bad
            continue
        assert studied.coding.packets or folder == "odd"
        count = len(studied.rows)
        wanted = sorted({0, count - 1, count // 2, count // 3})
        images, _ = _reached(studied, data, wanted)
        truth = {number: image for number, (image, _) in enumerate(decode(path)) if number in wanted}
        assert all(np.array_equal(image, truth[number]) for image, number in zip(images, wanted, strict=True)), path


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty-file"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "not-a-video"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "not-a-video"),
        (b"\0\0\0\x20ftypisom" + bytes(400), "not-a-video"),
        (b"\x1aE\xdf\xa3" + bytes(400), "not-a-video"),
    ],
)
def test_what_is_no_video_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(BadMember) as caught:
        study(data)
    assert caught.value.code == code
    assert "/tmp" not in caught.value.reason


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mkv")
    with pytest.raises(BadMember) as caught:
        study(path.read_bytes())
    assert caught.value.code == "no-video-stream"
