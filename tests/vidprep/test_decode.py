"""Decoding: every frame, at its time, of whole and of broken files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from shards.spec import ClipSpec, VideoFacts
from tests.vidprep.clips import noise_frames, write_clip
from vidprep.clock import Clock, frame_rate
from vidprep.decode import Decoded, Picture, decode
from vidprep.resample import resample
from vidprep.resize import Resize
from vidprep.verdicts import BadVideo


def codes(video: Decoded) -> list[str]:
    return [note.code for note in video.notes]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"), [("a.mov", "png", "rgb24"), ("a.avi", "png", "rgb24"), ("a.mkv", "ffv1", "bgr0")]
)
def test_every_frame_exactly_once(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    frames = noise_frames(7, 31, 45)  # odd sizes
    video = decode(write_clip(tmp_path / name, frames, fps=20, codec=codec, pix_fmt=pix_fmt))
    got = list(video)
    np.testing.assert_array_equal(np.stack([image for image, _ in got]), frames)
    assert [time for _, time in got] == [50_000 * i for i in range(7)]
    facts = video.facts
    assert (facts.fps, facts.constant, facts.height, facts.width) == (20.0, True, 31, 45)
    assert codes(video) == []


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libvpx-vp9"])
@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(25), Fraction(24000, 1001)])
def test_rates_of_containers_that_round_times(tmp_path: Path, codec: str, rate: Fraction) -> None:
    path = write_clip(tmp_path / "a.mkv", noise_frames(40), fps=rate, codec=codec)  # Matroska counts milliseconds
    video = decode(path)
    times = [time for _, time in video]
    assert video.facts.constant
    assert video.facts.fps == pytest.approx(float(rate), rel=2e-4)
    assert np.abs(np.array(times) - np.arange(40) * 1e6 / float(rate)).max() <= 1001


def test_frames_reordered_by_the_codec_come_in_order(tmp_path: Path) -> None:
    frames = noise_frames(30)
    for name, codec, options in (("a.mp4", "libx264", {"bf": "3"}), ("a.avi", "mpeg4", {"bf": "2"})):
        video = decode(write_clip(tmp_path / name, frames, codec=codec, options=options))
        got = list(video)
        assert len(got) == 30
        assert np.diff([time for _, time in got]).tolist() == [40_000] * 29
        errors = [np.abs(image.astype(int) - frame).mean() for (image, _), frame in zip(got, frames, strict=True)]
        assert max(errors) < 20 and codes(video) == []


def test_a_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [0, 40, 80, 200, 210, 333, 1000]
    video = decode(write_clip(tmp_path / "a.mkv", noise_frames(7), times_ms=times))
    assert [time // 1000 for _, time in video] == times
    assert not video.facts.constant
    assert video.facts.fps == pytest.approx(6.0)


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    video = decode(write_clip(tmp_path / "a.mkv", noise_frames(3), times_ms=[5000, 5040, 5080]))
    assert [time for _, time in video] == [0, 40_000, 80_000]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_a_cut_has_the_frames_of_the_whole(tmp_path: Path, suffix: str) -> None:
    codec = "libx264" if suffix != ".avi" else "mpeg4"
    path = write_clip(tmp_path / f"a{suffix}", noise_frames(400), fps=20, codec=codec, options={"g": "50"})
    whole = [image for image, _ in decode(path, resize=Resize(short_side=16))]
    for start, end in ((0.5, 1.0), (12.0, 13.25), (15.0, None), (None, 0.2)):
        video = decode(path, resize=Resize(short_side=16), start=start, end=end)
        got = list(video)
        first, last = round((start or 0) * 20), 400 if end is None else round(end * 20)
        assert len(got) == last - first
        np.testing.assert_array_equal(np.stack([image for image, _ in got]), np.stack(whole[first:last]))
        assert [time for _, time in got][:2] == [0, 50_000]
        assert codes(video) == []
    with pytest.raises(BadVideo, match="no frame between 30 s and the end") as caught:
        list(decode(path, start=30))
    assert caught.value.code == "nothing-between"


def test_a_limit_ends_decoding(tmp_path: Path) -> None:
    video = decode(write_clip(tmp_path / "a.mp4", noise_frames(9)), limit=4)
    assert sum(1 for _ in video) == len(video.facts.times_us) == 4
    assert codes(video) == []


def test_a_truncated_file_keeps_what_decodes(tmp_path: Path) -> None:
    frames = np.concatenate([noise_frames(1, seed=i) for i in range(60)])
    whole = write_clip(tmp_path / "a.avi", frames, codec="mpeg4").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) * 6 // 10])
    video = decode(tmp_path / "cut.avi")
    count = sum(1 for _ in video)
    assert 20 < count < 60
    assert "fewer-frames-than-header" in codes(video)
    assert all("cut.fixed.mp4" in note.command for note in video.notes)


def test_damaged_bytes_decode_the_same_every_time(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "a.avi", noise_frames(60, 96, 128), codec="mpeg4").read_bytes())
    rng = np.random.default_rng(3)
    for place in rng.integers(len(data) // 3, len(data) * 2 // 3, 60):
        data[place] = rng.integers(256)
    (tmp_path / "bad.avi").write_bytes(data)
    runs = []
    for _ in range(3):
        video = decode(tmp_path / "bad.avi")
        runs.append((b"".join(image.tobytes() for image, _ in video), video.notes, video.facts.times_us.tolist()))
    assert runs[0] == runs[1] == runs[2]
    assert "decode-errors" in [note.code for note in runs[0][1]]


def test_frames_of_a_changing_size_are_stored_in_one(tmp_path: Path) -> None:
    first = write_clip(tmp_path / "a.h264", noise_frames(5, 48, 64), codec="libx264")
    second = write_clip(tmp_path / "b.h264", noise_frames(5, 64, 96), codec="libx264")
    (tmp_path / "ab.h264").write_bytes(first.read_bytes() + second.read_bytes())
    video = decode(tmp_path / "ab.h264", resize=Resize(short_side=24))
    assert [image.shape for image, _ in video] == [(24, 32, 3)] * 10
    assert "size-changes" in codes(video) and "no-times" in codes(video)
    assert np.diff(video.facts.times_us).min() > 0


def test_one_frame(tmp_path: Path) -> None:
    video = decode(write_clip(tmp_path / "a.mp4", noise_frames(1), fps=30))
    assert sum(1 for _ in video) == 1
    assert codes(video) == ["one-frame"] and video.facts.fps == 30.0


def test_facts_belong_to_the_end(tmp_path: Path) -> None:
    video = decode(write_clip(tmp_path / "a.mp4", noise_frames(2)))
    with pytest.raises(RuntimeError, match="after the last frame"):
        _ = video.facts


def clock_times(stamps: list[tuple[int | None, int | None]], **options: bool) -> tuple[list[int], Clock]:
    clock = Clock(Fraction(1, 100), Fraction(25), **options)
    return [clock.time_us(pts, dts) // 10_000 for pts, dts in stamps], clock


def test_lying_times_are_repaired() -> None:
    both = [(i, i) for i in (0, 4, 8, 8, 16, 12, 24)]
    times, clock = clock_times(both)
    assert times == [0, 4, 8, 12, 16, 20, 24] and clock.repaired == 2
    times, clock = clock_times([(None, None)] * 4)
    assert times == [0, 4, 8, 12] and clock.missing == 4
    times, _ = clock_times([(0, 0), (4, 4), (10**9, 10**9), (12, 12)])
    assert times == [0, 4, 8, 12]
    # FFmpeg's rule: presentation times that go wrong more often than decoding times lose.
    times, _ = clock_times([(0, 0), (0, 4), (0, 8), (0, 12), (0, 16)])
    assert times == [0, 4, 8, 12, 16]
    times, clock = clock_times([(4, 4), (12, 8), (8, 12), (16, None)], by_decoding=True)
    assert times == [4, 8, 12, 16] and clock.repaired == 0


def test_any_stamps_give_increasing_times() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        stamps = [
            (int(p) if p > -20 else None, int(d) if d > -20 else None) for p, d in rng.integers(-30, 200, (30, 2))
        ]
        clock = Clock(Fraction(1, 90), Fraction(30))
        times = [clock.time_us(pts, dts) for pts, dts in stamps]
        assert (np.diff(times) > 0).all()


def test_frame_rate_tells_rounding_from_variation() -> None:
    exact = np.arange(100) * 1e6 / 29.97
    rate = [Fraction(2997, 100)]
    tick = Fraction(1, 1000)
    assert frame_rate(np.int64(exact // 1000 * 1000), time_base=tick, rates=rate) == (29.97, True)
    dropped = np.delete(np.int64(np.round(exact)), 50)
    assert not frame_rate(dropped, time_base=Fraction(100, 2997), rates=rate)[1]
    assert frame_rate(np.array([0]), time_base=tick, rates=[None, Fraction(12)]) == (12.0, True)


def test_resampling_agrees_with_the_readers_rule() -> None:
    rng = np.random.default_rng(1)
    for trial in range(300):
        count = int(rng.integers(1, 40))
        gaps = rng.integers(1000, 120_000, count - 1) if trial % 2 else np.full(count - 1, rng.integers(5000, 100_000))
        times = np.concatenate([[0], np.cumsum(gaps)]).astype(np.int64)
        fps = float(rng.choice([1, 5, 12.5, 25, 29.97, 60]))
        facts = VideoFacts(frames=count, height=8, width=8, times_us=times)
        wanted = ClipSpec(frames=1, fps=fps)._resampled(facts)
        pictures = [Picture(time_us=int(t), frame=i, converter=None) for i, t in enumerate(times)]  # type: ignore
        got = [picture.frame for picture in resample(pictures, fps)]
        assert got == wanted.tolist(), (times, fps)
    assert list(resample([], 5)) == []
