"""The demo set: deterministic, decodable, and told apart by motion only."""

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest

from shards.errors import StorageError, UserError
from vidprep.synthetic import MOTIONS, TAKES, Person, render, render_demo, write_video

SIZE = (48, 64)
PERSONS = 5


def _videos():
    """(frames, class number, person) of a set without the encoder."""
    for label, motion in enumerate(MOTIONS.values()):
        for number in range(PERSONS * TAKES):
            person, take = divmod(number, TAKES)
            rng = np.random.default_rng([0, person, take, label])
            frames = render(motion, rng, person=Person.draw(0, person), size=SIZE, seconds=(1.6, 1.8))
            yield frames, label, person


def _nearest_class_mean(features: np.ndarray, labels: np.ndarray, persons: np.ndarray) -> float:
    """Accuracy with one person after the other held out."""
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    right = 0
    for person in range(PERSONS):
        train = persons != person
        means = np.stack([features[train & (labels == c)].mean(0) for c in range(len(MOTIONS))])
        distance = ((features[~train][:, None] - means) ** 2).sum(-1)
        right += int((distance.argmin(1) == labels[~train]).sum())
    return right / len(labels)


def _motion_features(frames: np.ndarray) -> np.ndarray:
    """How far the shape gets right and down, whether it drifts, and how much its area changes."""
    ground = np.median(frames[::4], axis=0)
    mask = np.abs(frames - ground).max(-1) > 40
    # Of a shape that hardly moves, the median holds the shape itself, and little is left.
    area = mask.sum((1, 2)) / max(mask.sum() / len(frames), 50)
    track = []
    for axis, length in ((2, frames.shape[2]), (1, frames.shape[1])):
        turn = np.exp(2j * np.pi * np.arange(length) / length)
        centre = (mask.any(3 - axis) * turn).sum(1)  # a mean on the torus
        track.append(np.unwrap(np.angle(centre)) * length / (2 * np.pi))
    x, y = (line - line.mean() for line in track)
    change = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean()
    reach = [np.log1p(x.std()), np.log1p(y.std())]
    return np.array([*reach, np.log1p(abs(x[-1] - x[0])), area.std(), np.log(change)])


def test_classes_differ_in_motion_and_in_nothing_else():
    still, moving, labels, persons = [], [], [], []
    for frames, label, person in _videos():
        middle = frames[len(frames) // 2].mean(-1)
        still.append(middle.reshape(12, 4, 16, 4).mean((1, 3)).ravel())
        moving.append(_motion_features(frames))
        labels.append(label)
        persons.append(person)
    where = np.array(labels), np.array(persons)
    chance = 1 / len(MOTIONS)
    assert _nearest_class_mean(np.stack(still), *where) < chance + 0.1
    assert _nearest_class_mean(np.stack(moving), *where) > 4 * chance


def test_demo_is_deterministic_and_decodes(tmp_path: Path):
    digests = []
    for name in ("one", "two"):
        render_demo(tmp_path / name, videos_per_class=2, size=SIZE, seconds=(0.4, 0.8))
        files = sorted((tmp_path / name).rglob("*.*"))
        digests.append([(f.name, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files])
    assert digests[0] == digests[1]
    assert {f.parent.name for f in files} == set(MOTIONS)
    codecs, lengths = set(), set()
    for file in files:
        with av.open(file) as container:
            stream = container.streams.video[0]
            codecs.add((file.suffix, stream.codec_context.name))
            assert (stream.height, stream.width) == SIZE
            assert stream.average_rate == 25
            lengths.add(sum(1 for _ in container.decode(stream)))
    assert codecs == {(".mp4", "h264"), (".avi", "mpeg4")}
    assert len(lengths) > 3
    assert 10 <= min(lengths) <= max(lengths) <= 20


def test_another_seed_gives_another_set(tmp_path: Path):
    for seed in (0, 1):
        render_demo(tmp_path / str(seed), videos_per_class=1, seed=seed, size=SIZE, seconds=(0.2, 0.4))
    name = "spin/person01_01.mp4"
    assert (tmp_path / "0" / name).read_bytes() != (tmp_path / "1" / name).read_bytes()


def test_written_video_shows_its_frames(tmp_path: Path):
    frames = np.zeros((7, 32, 48, 3), np.uint8)
    for t, frame in enumerate(frames):
        frame[:, : 4 * t + 8] = (200, 40, 90)
    for name in ("clip.mp4", "clip.avi", "clip.mkv"):
        write_video(tmp_path / name, frames, fps=12.5)
        with av.open(tmp_path / name) as container:
            back = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
            assert float(container.streams.video[0].average_rate) == 12.5
        assert len(back) == len(frames)
        assert np.abs(np.stack(back).astype(int) - frames).mean() < 6


@pytest.mark.parametrize("size", [(31, 64), (48, 65)])
def test_sizes_an_encoder_cannot_take_are_named(tmp_path: Path, size):
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}"):
        render_demo(tmp_path, size=size)


def test_unwritable_folder_is_a_storage_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        render_demo(tmp_path / "file")
    with pytest.raises(StorageError, match=r"gone"):
        write_video(tmp_path / "gone" / "a.mp4", np.zeros((1, 32, 32, 3), np.uint8))
