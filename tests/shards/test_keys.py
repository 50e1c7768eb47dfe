import pytest

from shards.keys import MAX_KEY_BYTES, is_key, key_hash, make_key, segment_key


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("walk/daria_walk.avi", "walk--daria_walk"),
        ("a/b/c.mp4", "a--b--c"),
        ("v_ApplyEyeMakeup_g01_c01.avi", "v_ApplyEyeMakeup_g01_c01"),
        ("no_extension", "no_extension"),
        ("x.3gp", "x"),
    ],
)
def test_readable_paths_stay_readable(path, key):
    assert make_key(path) == key


@pytest.mark.parametrize(
    "path",
    [
        "a b.avi",
        "a.b.avi",
        "vidéo.mkv",
        "視頻/一.mp4",
        "a--b/c.avi",
        "x" * 200 + ".avi",
        "bad\udcff.avi",
        ".avi",
        "clip.1",
    ],
)
def test_what_cannot_be_undone_is_told_apart_by_a_hash(path):
    key = make_key(path)
    assert is_key(key) and len(key) <= 72
    assert key[-9] == "-" and int(key[-8:], 16) >= 0
    assert key != make_key(path + "_")


def test_ambiguous_paths_have_different_keys():
    paths = ["a/b--c.avi", "a--b/c.avi", "a/b/c.avi", "a-/b.avi", "a/-b.avi", "a b.avi", "a_b.avi", "a.b.avi"]
    assert len({make_key(path) for path in paths}) == len(paths)


def test_hashed_tells_extensions_apart():
    assert make_key("a.avi") == make_key("a.mp4")
    assert make_key("a.avi", hashed=True) != make_key("a.mp4", hashed=True)


def test_keys_leave_room_for_segments():
    assert is_key(segment_key(make_key("y" * 300), 123_456))
    assert segment_key("a", 7) == "a_s007"


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "a b", "a\nb", "é" * (MAX_KEY_BYTES // 2 + 1), "\udcff"])
def test_what_is_not_a_key(key):
    assert not is_key(key)


def test_hash_is_the_documented_one():
    import hashlib
    import struct

    digest = hashlib.blake2b(b"walk--daria", digest_size=8).digest()
    assert key_hash("walk--daria") == struct.unpack("<Q", digest)[0]
