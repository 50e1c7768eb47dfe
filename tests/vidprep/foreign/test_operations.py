"""Operations on data sets whose tars are another tool's."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.errors import UserError
from shards.ops.dedupe import dedupe
from shards.ops.operations import subset
from shards.ops.repair import mend
from tests.vidprep.foreign.tars import video, video_samples, write_tar
from vidprep.foreign.indexing import index_shards


def test_duplicates_among_encoded_videos(tmp_path: Path) -> None:
    samples = video_samples(tmp_path, range(3))
    samples.append({**samples[1], "__key__": "same"})
    worse = video(tmp_path, seed=2, options={"g": "12", "crf": "34"})
    samples.append({**samples[2], "__key__": "worse", "mp4": worse})
    write_tar(tmp_path / "tars/00000.tar", samples)
    index_shards([tmp_path / "tars"], workers=1)
    report = dedupe(tmp_path / "tars")
    assert {(pair.drop, pair.keep, pair.exact) for pair in report.pairs} == {
        ("same", "000000001", True),
        ("worse", "000000002", False),
    }


def test_tars_of_others_are_not_copied_nor_mended(tmp_path: Path) -> None:
    write_tar(tmp_path / "tars/00000.tar", video_samples(tmp_path, range(2)))
    index_shards([tmp_path / "tars"], workers=1)
    with pytest.raises(UserError, match="of kind video, whose samples lie in tars of another tool"):
        subset(tmp_path / "tars", tmp_path / "new", fraction=0.5)
    assert mend(tmp_path / "tars").mended == []
