"""Archives of arrays, and what is kept of passes in them: damaged, as good as none."""

import numpy as np
import pytest

from contexture_jax._core.archives import read_archive, write_archive
from contexture_jax._core.journal import Journal


def test_a_damaged_entry_is_the_one_that_was_kept_or_none(tmp_path):
    journal = Journal(tmp_path, every=0.0)
    carry = [np.arange(6.0), np.ones((2, 3), np.float32)]
    entry = journal.opened("a product")
    entry.note(4, carry, last=False)
    assert entry.path is not None
    whole = entry.path.read_bytes()
    rng, kept = np.random.default_rng(0), 0
    for place in rng.integers(0, len(whole), 300).tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        for content in (bytes(flipped), whole[:place]):
            entry.path.write_bytes(content)
            found = journal.opened("a product")
            if found.carry is None:
                assert found.next_block == 0
                continue
            kept += 1
            assert found.next_block == 4
            for one, other in zip(found.carry, carry, strict=True):
                np.testing.assert_array_equal(one, other)
    assert 0 < kept < 300


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "some.npz"
    with pytest.raises(TypeError, match="labels is an array of object"):
        write_archive(path, {"labels": np.array([None, "a"])})
    assert not list(tmp_path.iterdir())


def test_an_archive_that_points_before_its_start_is_damaged(tmp_path):
    path = tmp_path / "some.npz"
    write_archive(path, {"x": np.ones(9)})
    content = bytearray(path.read_bytes())
    # Of the directory, among the last bytes: members seem to lie as much before it.
    place = slice(len(content) - 6, len(content) - 2)
    content[place] = (int.from_bytes(content[place], "little") + 10**6).to_bytes(
        4, "little"
    )
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.npz is no archive .* damaged"):
        read_archive(path)
    with pytest.raises(FileNotFoundError):
        read_archive(tmp_path / "other.npz")
