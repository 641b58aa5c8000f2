"""Reading and writing safetensors files: the same bytes as the `safetensors` package, both ways."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ingot
from ingot.store import SafetensorsFile, SafetensorsWriter, Tensor, save_safetensors
from ingot.store.tensor import STORAGE
from tests.store.store_files import normal, raw_file, read_all

MIXED = {
    "b.bf16": normal(3, 5, dtype="BF16"),
    "a.f32": normal(2, 7),
    "c.f16": normal(11, dtype="F16"),
    "a.i64": Tensor(np.arange(-3, 4), "I64"),
    "odd": Tensor(np.arange(13, dtype=np.uint8), "U8"),
    "true": Tensor(np.array([True, False, True]), "BOOL"),
    "scalar": Tensor(np.array(1.5, np.float32), "F32"),
    "empty": normal(0, 4),
    'µ"\\\n\x7f': normal(1),
}


def to_torch(tensor: Tensor):
    torch = pytest.importorskip("torch")
    kinds = {"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
    array = tensor.array
    if tensor.dtype in kinds:
        return torch.from_numpy(array.view(np.dtype(f"i{array.itemsize}"))).view(kinds[tensor.dtype])
    return torch.from_numpy(array.copy())


def same(left: Tensor, right: Tensor) -> bool:
    return (left.dtype, left.shape) == (right.dtype, right.shape) and left.array.tobytes() == right.array.tobytes()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_we_write_the_bytes_that_the_package_writes(tmp_path, metadata):
    package = pytest.importorskip("safetensors.torch")
    tensors = {name: to_torch(tensor) for name, tensor in MIXED.items()}
    package.save_file(tensors, tmp_path / "theirs", metadata=metadata)
    save_safetensors(tmp_path / "ours", MIXED.items(), metadata=metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("dtype", [d for d in STORAGE if d not in ("F8_E8M0", "C64")])
def test_every_dtype_is_laid_out_as_the_package_does(tmp_path, dtype):
    package = pytest.importorskip("safetensors.torch")
    raw = np.random.default_rng(3).integers(0, 2, 6 * STORAGE[dtype].itemsize, dtype=np.uint8)
    pair = {"z": Tensor(raw.view(STORAGE[dtype]).reshape(2, 3), dtype), "i": Tensor(np.zeros(5, np.int32), "I32")}
    package.save_file({name: to_torch(tensor) for name, tensor in pair.items()}, tmp_path / "theirs")
    save_safetensors(tmp_path / "ours", pair.items())
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert same(SafetensorsFile(tmp_path / "theirs").tensor("z"), pair["z"])


def test_the_package_reads_what_we_write(tmp_path):
    package = pytest.importorskip("safetensors.torch")
    save_safetensors(tmp_path / "ours", MIXED.items())
    loaded = package.load_file(tmp_path / "ours")
    assert set(loaded) == set(MIXED)
    for name, tensor in MIXED.items():
        assert loaded[name].equal(to_torch(tensor)), name


def test_load_save_load_is_the_identity(tmp_path):
    save_safetensors(tmp_path / "one", MIXED.items(), metadata={"format": "pt"})
    first = SafetensorsFile(tmp_path / "one")
    save_safetensors(tmp_path / "two", ((name, first.tensor(name)) for name in reversed(first.names)), first.metadata)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert all(same(tensor, MIXED[name]) for name, tensor in read_all(tmp_path / "two").items())


def test_tensors_are_read_only_views_of_the_map(tmp_path):
    save_safetensors(tmp_path / "f", MIXED.items())
    file = SafetensorsFile(tmp_path / "f")
    array = file.tensor("b.bf16").array
    again = file.tensor("b.bf16").array
    assert np.shares_memory(array, again)
    assert not array.flags.writeable
    assert array.dtype == np.uint16


def test_views_outlive_the_file_object_and_its_name(tmp_path):
    save_safetensors(tmp_path / "f", MIXED.items())
    array = SafetensorsFile(tmp_path / "f").tensor("a.f32").array
    (tmp_path / "f").unlink()
    assert np.array_equal(array, MIXED["a.f32"].array)


def test_unaligned_data_is_read_by_a_copy(tmp_path):
    values = np.arange(6, dtype=np.float32)
    (tmp_path / "f").write_bytes(
        raw_file(b'{"t":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}', values.tobytes())
    )
    file = SafetensorsFile(tmp_path / "f")
    assert file.info("t").begin % 4 == 1
    array = file.tensor("t").array
    assert array.flags.aligned
    assert not array.flags.writeable
    assert np.array_equal(array, values.reshape(2, 3))


def test_names_info_metadata_and_membership(tmp_path):
    save_safetensors(tmp_path / "f", MIXED.items(), metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "f")
    assert set(file.names) == set(MIXED)
    assert (file.info("b.bf16").dtype, file.info("b.bf16").shape) == ("BF16", (3, 5))
    assert file.metadata == {"format": "pt"}
    assert "b.bf16" in file
    assert "nothing" not in file
    assert file.nbytes == (tmp_path / "f").stat().st_size
    with pytest.raises(ValueError, match="there is no tensor 'nothing' in this file"):
        file.tensor("nothing")


def test_links_are_followed(tmp_path):
    save_safetensors(tmp_path / "blob", MIXED.items())
    (tmp_path / "link").symlink_to(tmp_path / "blob")
    assert set(SafetensorsFile(tmp_path / "link").names) == set(MIXED)


def test_the_header_may_end_in_spaces(tmp_path):
    (tmp_path / "f").write_bytes(raw_file(b'{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   ', b"\x07"))
    assert SafetensorsFile(tmp_path / "f").tensor("t").array.tolist() == [7]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_release_gives_the_pages_back_and_the_values_stay(tmp_path):
    big = normal(1 << 20, 4)
    save_safetensors(tmp_path / "f", [("a", normal(5)), ("big", big), ("c", normal(3))])
    file = SafetensorsFile(tmp_path / "f")
    view = file.tensor("big")
    assert view.first_not_finite() is None
    touched = resident(tmp_path / "f")
    file.release("big")
    assert touched >= big.nbytes // 1024
    assert resident(tmp_path / "f") <= 4 * mmap.PAGESIZE // 1024
    assert np.array_equal(view.array, big.array)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_a_large_tensor_is_checked_and_packed_without_ever_being_in_memory_whole(tmp_path):
    big = normal(1 << 16, 96)
    save_safetensors(tmp_path / "f", [("a", normal(5)), ("big", big), ("c", normal(3))])
    tensor = SafetensorsFile(tmp_path / "f").tensor("big")
    assert tensor.first_not_finite() is None
    assert resident(tmp_path / "f") <= 2048
    packed = []
    for row in range(0, 1 << 16, 1 << 14):
        packed.append(tensor.array[row : row + (1 << 14)].copy())
        tensor.release(row, row + (1 << 14))
        assert resident(tmp_path / "f") <= 4 * mmap.PAGESIZE // 1024
    assert np.array_equal(np.concatenate(packed), big.array)


def test_release_of_nothing_and_of_what_is_not_mapped(tmp_path):
    save_safetensors(tmp_path / "f", [("none", normal(0, 3)), ("scalar", MIXED["scalar"])])
    file = SafetensorsFile(tmp_path / "f")
    for name in file.names:
        file.release(name)
        file.tensor(name).release()
    assert file.tensor("none").shape == (0, 3)
    assert file.tensor("scalar").array == np.float32(1.5)
    normal(5).release()


def test_a_file_of_empty_tensors_alone(tmp_path):
    save_safetensors(tmp_path / "f", [("none", normal(0, 3))])
    assert SafetensorsFile(tmp_path / "f").tensor("none").float32().shape == (0, 3)


def resident(path: Path) -> int:
    """KiB of the mapped file that are in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(path)):
            return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))
    raise AssertionError(f"{path} is not mapped")


def test_writing_replaces_a_file_that_is_still_mapped(tmp_path):
    save_safetensors(tmp_path / "f", [("t", normal(5, seed=1))])
    old = SafetensorsFile(tmp_path / "f").tensor("t").array
    save_safetensors(tmp_path / "f", [("t", normal(5, seed=2))])
    assert np.array_equal(old, normal(5, seed=1).array)
    assert np.array_equal(SafetensorsFile(tmp_path / "f").tensor("t").array, normal(5, seed=2).array)


def test_a_written_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "any").write_text("")
    save_safetensors(tmp_path / "f", MIXED.items())
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "any").stat().st_mode


LAYOUT = {"x": ("F32", (2, 3)), "y": ("BF16", (5,))}


def test_the_writer_takes_tensors_in_any_order(tmp_path):
    x, y = normal(2, 3), normal(5, dtype="BF16")
    for order in (("x", "y"), ("y", "x")):
        with SafetensorsWriter(tmp_path / "".join(order), LAYOUT) as file:
            for name in order:
                file.write(name, {"x": x, "y": y}[name])
    assert (tmp_path / "xy").read_bytes() == (tmp_path / "yx").read_bytes()


def write_all(writer, writes) -> None:
    with writer as file:
        for name, tensor in writes:
            file.write(name, tensor)


@pytest.mark.parametrize(
    ("writes", "sentence"),
    [
        ([("x", normal(2, 3))], "tensor 'y' was announced but not written"),
        ([("z", normal(2, 3))], "tensor 'z' was not announced"),
        ([("x", normal(2, 3)), ("x", normal(2, 3))], "tensor 'x' was written before"),
        ([("x", normal(3, 2))], "tensor 'x' is F32 [3, 2], but F32 [2, 3] was announced"),
        ([("y", normal(5))], "tensor 'y' is F32 [5], but BF16 [5] was announced"),
    ],
)
def test_what_the_writer_refuses_leaves_no_file(tmp_path, writes, sentence):
    with pytest.raises(ValueError) as caught:
        write_all(SafetensorsWriter(tmp_path / "f", LAYOUT), writes)
    assert sentence in str(caught.value)
    assert str(tmp_path / "f") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ([("a", normal(2)), ("a", normal(3))], "tensor 'a' is given twice"),
        ([("__metadata__", normal(2))], "a tensor cannot be named '__metadata__'"),
    ],
)
def test_names_that_cannot_be_saved(tmp_path, tensors, sentence):
    with pytest.raises(ValueError) as caught:
        save_safetensors(tmp_path / "f", tensors)
    assert sentence in str(caught.value)


def test_a_layout_with_an_unknown_dtype(tmp_path):
    with pytest.raises(ValueError, match="tensor 'x' has dtype 'F31', which is not one of BOOL, U8"):
        SafetensorsWriter(tmp_path / "f", {"x": ("F31", (2, 3))})


def test_a_failed_write_keeps_the_old_file(tmp_path):
    save_safetensors(tmp_path / "f", [("t", normal(5))])
    before = (tmp_path / "f").read_bytes()

    def interrupted():
        yield "x", normal(2, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_all(SafetensorsWriter(tmp_path / "f", LAYOUT), interrupted())
    assert (tmp_path / "f").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_missing_directory_is_an_os_error_with_the_path(tmp_path):
    with pytest.raises(OSError, match="cannot be written: No such file or directory; nothing was changed"):
        save_safetensors(tmp_path / "no" / "f", MIXED.items())


def test_a_directory_in_the_way_is_an_os_error_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(OSError, match="cannot be written"):
        save_safetensors(tmp_path / "f", MIXED.items())
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


FULL_DISK = """
import resource, sys
sys.path.insert(0, {root!r})
from tests.store.store_files import normal
from ingot.store import save_safetensors
save_safetensors("f", [("t", normal(5))])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_safetensors("f", [("t", normal(50_000))])
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on file sizes")
def test_a_disk_that_takes_no_more_leaves_the_old_file(tmp_path):
    code = FULL_DISK.format(root=str(Path(__file__).parents[2]))
    environment = os.environ | {"PYTHONPATH": str(Path(ingot.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    output = run.stdout + run.stderr
    assert "f: cannot be written: File too large; nothing was changed" in output
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert read_all(tmp_path / "f")["t"].shape == (5,)


def test_a_full_disk_is_said_in_a_sentence(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    writer = SafetensorsWriter(tmp_path / "f", LAYOUT)

    def into_a_full_disk():
        writer._file.close()
        writer._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        yield "x", normal(2, 3)

    with pytest.raises(OSError, match="the disk is full; nothing was changed") as caught:
        write_all(writer, into_a_full_disk())
    assert str(tmp_path / "f") in str(caught.value)
    assert list(tmp_path.iterdir()) == []
