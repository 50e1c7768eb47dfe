import cv2
import numpy as np
import pytest

from shards import jpeg
from tests.tiny import frame

COLOUR = cv2.resize(frame(3, 5), (171, 128), interpolation=cv2.INTER_CUBIC)


def test_decodes_to_the_same_pixels_as_opencv():
    data = jpeg.encode(COLOUR)
    expected = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.array_equal(jpeg.decode(data), expected)
    assert np.abs(expected.astype(int) - COLOUR).mean() < 4


def test_grey_stays_grey():
    grey = np.ascontiguousarray(COLOUR[:, :, 0])
    image = jpeg.decode(jpeg.encode(grey))
    assert image.shape == grey.shape
    assert np.abs(image.astype(int) - grey).mean() < 4


def test_decodes_into_the_given_array_and_takes_any_buffer():
    data = jpeg.encode(COLOUR)
    out = np.zeros((2, *COLOUR.shape), np.uint8)
    assert jpeg.decode(memoryview(data), out=out[1]).base is not None
    assert np.array_equal(out[1], jpeg.decode(data)) and not out[0].any()


def test_views_are_encoded_as_what_they_show():
    assert jpeg.encode(COLOUR[:, ::-1]) == jpeg.encode(COLOUR[:, ::-1].copy())


@pytest.mark.parametrize("size", [(128, 172), (64, 342), (256, 171)])
def test_another_size_is_an_error(size):
    with pytest.raises(ValueError):
        jpeg.decode(jpeg.encode(COLOUR), out=np.empty((*size, 3), np.uint8))


def test_damaged_bytes_are_an_error():
    data = jpeg.encode(COLOUR)
    for bad in (b"", b"JPEG", data[:300], data[:-50]):
        with pytest.raises(ValueError):
            jpeg.decode(bad)


@pytest.mark.parametrize("grey", [False, True])
def test_frames_of_a_stream_can_be_split_by_markers_at_every_quality(grey):
    image = COLOUR[:, :, 0] if grey else COLOUR
    for quality in range(1, 101):
        data = jpeg.encode(image, quality=quality)
        assert data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9"
        assert data.count(b"\xff\xd9\xff\xd8") == 0
