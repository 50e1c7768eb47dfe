"""The demo set: encoded videos of one moving textured shape, in classes that differ only in its motion.

A single frame carries no information about the class. The picture is a torus (what leaves on the right comes
in on the left), position, angle and phase of size are uniform, and textures, shapes, colours and speeds are
drawn without regard to the class; so the distribution of any one frame is the same in all of them.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from shards.errors import StorageError, UserError

Image = npt.NDArray[np.uint8]
Times = npt.NDArray[np.float64]

FPS = 25
TAKES = 3  # videos of one person in one class
_SPRITE = 96  # side of the square a shape is drawn in, before it is scaled
_PULSE = 0.32  # half the range of the logarithm of the size


@dataclass(frozen=True, kw_only=True)
class Track:
    """Where a shape is in each frame, (T,): shift right and down in its widths, turns, phase of its size."""

    right: Times
    down: Times
    turns: Times
    size_phase: Times


def _track(time: Times, *, right: Times | None = None, down: Times | None = None, turns: Times | None = None) -> Track:
    still = np.zeros_like(time)
    return Track(
        right=still if right is None else right,
        down=still if down is None else down,
        turns=still if turns is None else turns,
        size_phase=still,
    )


def _wave(time: Times) -> Times:
    return np.sin(2 * np.pi * time)


def _zigzag(time: Times) -> Track:
    teeth = 2 * np.abs(2 * ((1.5 * time) % 1) - 1) - 1
    return _track(time, right=1.1 * time, down=0.4 * teeth)


# Class → track over time in periods (may run backwards). All are closed under mirroring, so that flipping,
# a usual augmentation, keeps the class.
MOTIONS: dict[str, Callable[[Times], Track]] = {
    "circle": lambda t: _track(t, right=0.5 * _wave(t), down=0.5 * _wave(t + 0.25)),
    "left-right": lambda t: _track(t, right=0.7 * _wave(t)),
    "pulse": lambda t: Track(right=0 * t, down=0 * t, turns=0 * t, size_phase=t),
    "spin": lambda t: _track(t, turns=t),
    "up-down": lambda t: _track(t, down=0.7 * _wave(t)),
    "zigzag": _zigzag,
}


def render_demo(
    root: str | Path,
    *,
    videos_per_class: int = 15,
    seed: int = 0,
    size: tuple[int, int] = (96, 128),
    seconds: tuple[float, float] = (2.0, 3.2),
) -> None:
    """Write `root/CLASS/personNN_MM.mp4` (H.264) and `.avi` (MPEG-4), 25 frames a second, fixed by the seed.

    Every person (colours and textures of its own) does every motion `TAKES` times, so holding out persons
    (`--holdout 'person05_*'`, `--group '(person\\d+)_'`) tests motion and nothing else.

    Args:
        root: folder; made where it is missing.
        size: (height, width) of the frames, even numbers from 32.
        seconds: shortest and longest length.

    Raises:
        UserError: a size or length that cannot be rendered. StorageError: root cannot be written.
    """
    if min(size) < 32 or size[0] % 2 or size[1] % 2:
        raise UserError(f"size is {size[0]}x{size[1]} (height x width); it needs even numbers from 32")
    if not 0 < seconds[0] <= seconds[1]:
        raise UserError(f"seconds are {seconds[0]} to {seconds[1]}; allowed is 0 < shortest <= longest")
    for class_number, (name, motion) in enumerate(MOTIONS.items()):
        folder = Path(root) / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {folder}: {error.strerror}") from error
        for number in range(videos_per_class):
            person, take = divmod(number, TAKES)
            rng = np.random.default_rng([seed, person, take, class_number])
            frames = render(motion, rng, person=Person.draw(seed, person), size=size, seconds=seconds)
            suffix = "avi" if (person + take) % 2 else "mp4"
            write_video(folder / f"person{person + 1:02d}_{take + 1:02d}.{suffix}", frames, fps=FPS)


@dataclass(frozen=True, kw_only=True)
class Person:
    """What the videos of one group share: hues (0 to 1) of ground and shape, and how rough the ground is."""

    ground: float
    shape: float
    roughness: int

    @classmethod
    def draw(cls, seed: int, number: int) -> Person:
        rng = np.random.default_rng([seed, number])
        # Steps of the golden ratio spread any number of hues evenly.
        ground = (np.random.default_rng(seed).random() + 0.618034 * number) % 1
        return cls(ground=ground, shape=(ground + rng.uniform(0.3, 0.7)) % 1, roughness=int(rng.integers(3, 7)))


def render(
    motion: Callable[[Times], Track],
    rng: np.random.Generator,
    *,
    person: Person,
    size: tuple[int, int] = (96, 128),
    seconds: tuple[float, float] = (2.0, 3.2),
) -> Image:
    """Draw one video: (T,H,W,3) uint8 RGB."""
    height, width = size
    ground = _ground(rng, person, size)
    sprite = _sprite(rng, person)
    unit = rng.uniform(0.38, 0.48) * min(size)  # usual width of the shape in pixels
    period = rng.uniform(1.2, 1.6)  # seconds
    count = round(rng.uniform(*seconds) * FPS)
    top, left, turned, phase, first = rng.random(5)
    way = rng.choice([-1, 1])  # forwards or backwards
    track = motion(way * np.arange(count) / (FPS * period) + first)
    x = (left * width + unit * track.right) % width
    y = (top * height + unit * track.down) % height
    angle = 2 * np.pi * (turned + track.turns)
    scale = unit / _SPRITE * np.exp(_PULSE * _wave(phase + track.size_phase))
    frames = [_paste(ground, sprite, at, *how) for at, *how in zip(zip(x, y, strict=True), angle, scale, strict=True)]
    return np.stack(frames)


def write_video(
    path: str | Path,
    frames: Iterable[Image],
    *,
    fps: float | Fraction = FPS,
    codec: str | None = None,
    pixel_format: str = "yuv420p",
) -> None:
    """Encode frames, (T,H,W,3) uint8 RGB or an iterable of (H,W,3); the suffix chooses the container.

    Args:
        fps: constant frame rate.
        codec: an FFmpeg encoder of PyAV's build; None: mpeg4 for .avi, otherwise libx264.
        pixel_format: yuv420p needs even sizes.

    Raises:
        StorageError: the file cannot be written.
    """
    path = Path(path)
    codec = codec or ("mpeg4" if path.suffix.lower() == ".avi" else "libx264")
    try:
        with av.open(path, "w", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(60000))
            assert isinstance(stream, av.VideoStream)
            stream.pix_fmt = pixel_format
            stream.codec_context.thread_count = 1  # the number of threads changes x264's bytes
            if codec == "libx264":
                # No macroblock trees: their choices were seen to differ from run to run in small pictures.
                stream.options = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}
            for number, image in enumerate(frames):
                if number == 0:
                    stream.height, stream.width = image.shape[:2]
                    stream.bit_rate = 8 * image.shape[0] * image.shape[1] * round(fps)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")))
            container.mux(stream.encode(None))
    except OSError as error:
        raise StorageError(f"cannot write the video {path}: {error.strerror or error}") from error


def _noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> npt.NDArray[np.float32]:
    """Smooth noise (H,W) in 0…1 with three octaves, the coarsest `cells` a side."""
    total = np.zeros(size, np.float32)
    for octave in range(3):
        grid = rng.random((cells << octave, cells << octave), dtype=np.float32)
        total += cv2.resize(grid, (size[1], size[0]), interpolation=cv2.INTER_CUBIC) / 2**octave
    return np.asarray((total - total.min()) / np.ptp(total), np.float32)


def _colour(hue: float, lightness: float, saturation: float) -> npt.NDArray[np.float32]:
    return np.array(colorsys.hls_to_rgb(hue % 1, lightness, saturation), np.float32) * 255


def _ground(rng: np.random.Generator, person: Person, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Still background (H,W,3) float32 in 0…255: soft clouds of two muted colours."""
    share = _noise(rng, size, person.roughness)[..., None]
    hue = person.ground + rng.uniform(-0.04, 0.04)
    return np.asarray(share * _colour(hue, 0.62, 0.28) + (1 - share) * _colour(hue + 0.08, 0.3, 0.3), np.float32)


def _outline(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Corners (N,2) of a regular polygon, a star or a blob with radius up to 1 around 0."""
    kind = int(rng.integers(4))
    corners = int(rng.integers(3, 7))
    if kind == 0:  # polygon
        radius = np.ones(corners)
    elif kind == 1:  # star
        radius = np.tile([1.0, 0.5], corners)
    elif kind == 2:  # ellipse
        turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        return np.stack([np.cos(turn), rng.uniform(0.55, 0.8) * np.sin(turn)], axis=1)
    else:  # blob
        turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        radius = 0.8 + 0.2 * np.sin(corners * turn)
    turn = np.linspace(0, 2 * np.pi, len(radius), endpoint=False)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)


def _sprite(rng: np.random.Generator, person: Person) -> npt.NDArray[np.float32]:
    """The textured shape (S,S,4): RGB multiplied by alpha, and alpha in 0…1."""
    at = (np.arange(_SPRITE, dtype=np.float32) + 0.5) / _SPRITE
    x, y = np.meshgrid(at, at)
    cells = int(rng.integers(3, 6))
    pattern = [
        np.floor(x * cells) % 2,  # stripes
        (np.floor(x * cells) + np.floor(y * cells)) % 2,  # checks
        ((x * cells % 1 - 0.5) ** 2 + (y * cells % 1 - 0.5) ** 2 < 0.09) * 1.0,  # dots
        _noise(rng, (_SPRITE, _SPRITE), cells),
    ][rng.integers(4)][..., None]
    hue = person.shape + rng.uniform(-0.04, 0.04)
    colour = pattern * _colour(hue, 0.68, 0.9) + (1 - pattern) * _colour(hue + 0.06, 0.36, 0.9)
    corners = np.round((_outline(rng) * 0.47 + 0.5) * _SPRITE * 16).astype(np.int32)
    alpha = np.zeros((_SPRITE, _SPRITE), np.uint8)
    cv2.fillPoly(alpha, [corners], (255,), cv2.LINE_AA, 4)
    edge = np.zeros_like(alpha)
    cv2.polylines(edge, [corners], True, (255,), 3, cv2.LINE_AA, 4)
    colour += (edge[..., None] / 255) * (_colour(hue, 0.95, 0.6) - colour)
    cover = np.maximum(alpha, edge)[..., None] / np.float32(255)
    return np.concatenate([colour * cover, cover], axis=2).astype(np.float32)


def _paste(
    ground: npt.NDArray[np.float32],
    sprite: npt.NDArray[np.float32],
    at: tuple[float, float],
    angle: float,
    scale: float,
) -> Image:
    """Ground with the sprite around `at` (x, y), wrapped at the borders: (H,W,3) uint8."""
    x, y = at
    height, width = ground.shape[:2]
    # Warped around the middle by the fraction of a pixel, where it fits, then rolled by whole pixels.
    whole_x, whole_y = int(np.floor(x)), int(np.floor(y))
    cos, sin, half = scale * np.cos(angle), scale * np.sin(angle), (_SPRITE - 1) / 2
    matrix = np.array(
        [
            [cos, -sin, width // 2 + (x - whole_x) - half * (cos - sin)],
            [sin, cos, height // 2 + (y - whole_y) - half * (sin + cos)],
        ]
    )
    layer = cv2.warpAffine(sprite, matrix, (width, height), flags=cv2.INTER_AREA)
    layer = np.roll(layer, (whole_y - height // 2, whole_x - width // 2), axis=(0, 1))
    return np.asarray(np.rint(ground * (1 - layer[..., 3:]) + layer[..., :3]).clip(0, 255), np.uint8)
