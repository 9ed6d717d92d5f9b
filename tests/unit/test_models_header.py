"""The safetensors header parser, held to the library's own reader and to hand-made bad bytes."""

import errno
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from beear.errors import UserError
from beear.models.header import MAX_HEADER_BYTES, parse_header, read_header

IN_TMP = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path: Path, header: object, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    """Write a file with that header, honest or not."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


BAD: list[tuple[str, object, dict[str, object], str]] = [
    ("empty header", b"", {}, "broken header"),
    ("not json", b"{]", {}, "broken header"),
    ("a list", b"[]", {}, "broken header"),
    ("not utf-8", b'{"\xff":1}', {}, "broken header"),
    ("deep", b'{"a":' + b"[" * 200_000, {}, "header"),
    ("name twice", b'{"a":' + json.dumps(F32).encode() + b',"a":' + json.dumps(F32).encode() + b"}", {}, "given twice"),
    ("huge number", b'{"a":' + b"9" * 5000 + b"}", {}, "broken header"),
    ("longer than the file", {"a": F32}, {"length": 10_000}, "truncated"),
    ("longer than the limit", {"a": F32}, {"length": MAX_HEADER_BYTES + 1}, "expected at most 100,000,000"),
    ("longest there is", {"a": F32}, {"length": 2**64 - 1}, "expected at most 100,000,000"),
    ("truncated data", {"a": F32}, {"data": b"\0" * 7}, "truncated"),
    ("bytes after the end", {"a": F32}, {"data": b"\0" * 9}, "1 bytes after the last tensor"),
    ("unknown dtype", {"a": {**F32, "dtype": "Q4"}}, {}, "dtype 'Q4'"),
    ("dtype is a list", {"a": {**F32, "dtype": ["F32"]}}, {}, "found dtype"),
    ("float8", {"a": {**F32, "dtype": "F8_E4M3"}}, {}, "quantised dtype F8_E4M3"),
    ("negative shape", {"a": {**F32, "shape": [-2]}}, {}, "found shape"),
    ("shape of text", {"a": {**F32, "shape": "22"}}, {}, "found shape"),
    ("shape of bools", {"a": {**F32, "shape": [True]}}, {}, "found shape"),
    ("overflowing shape", {"a": {**F32, "shape": [2**62, 4]}}, {}, "bytes for shape"),
    ("shape and bytes differ", {"a": {**F32, "shape": [3]}}, {}, "expected 12"),
    ("offsets backwards", {"a": {**F32, "data_offsets": [8, 0]}}, {}, "data_offsets"),
    ("offsets negative", {"a": {**F32, "data_offsets": [-8, 0]}}, {}, "data_offsets"),
    ("three offsets", {"a": {**F32, "data_offsets": [0, 8, 8]}}, {}, "data_offsets"),
    ("out of range", {"a": {**F32, "data_offsets": [800, 808]}}, {}, "truncated or its offsets are wrong"),
    ("overlap", {"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, {"data": b"\0" * 12}, "overlaps"),
    ("hole", {"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, {"data": b"\0" * 20}, "hole"),
    ("entry is a number", {"a": 3}, {}, "malformed entry"),
    ("entry with more keys", {"a": {**F32, "code": "x"}}, {}, "malformed entry"),
    ("metadata of numbers", {"__metadata__": {"a": 1}, "a": F32}, {}, "__metadata__"),
]


@pytest.mark.parametrize("name,header,how,said", BAD, ids=[row[0] for row in BAD])
def test_bad_headers_are_refused_in_one_sentence(tmp_path, name, header, how, said):
    path = write(tmp_path / "model.safetensors", header, **how)
    with pytest.raises(UserError) as caught:
        read_header(path)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", range(8))
def test_a_file_shorter_than_its_length_field(tmp_path, size):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\0" * size)
    with pytest.raises(UserError, match=f"found {size} bytes"):
        read_header(path)


def test_what_is_no_plain_file_is_refused_without_being_opened(tmp_path, monkeypatch):
    pipe, folder, absent = (tmp_path / name for name in ("pipe", "folder", "absent"))
    os.mkfifo(pipe)
    folder.mkdir()
    for path in (pipe, folder, absent):
        with pytest.raises(UserError, match="found no regular file, expected a safetensors file"):
            read_header(path)
    path = write(tmp_path / "model.safetensors", {"a": F32})

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(UserError, match="could not be read .Permission denied."):
        read_header(path)


def test_entries_equal_the_library_s(tmp_path):
    tensors = {
        "a": torch.zeros(3, 5, dtype=torch.bfloat16),
        "b.weight": torch.ones(7),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.0, dtype=torch.float64),
        "mask": torch.zeros(3, dtype=torch.bool),
        "n": torch.zeros(2, dtype=torch.int64),
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(tensors, {"format": "pt"}))
    entries = read_header(path)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(entries)
        for name in entries:
            part = file.get_slice(name)
            assert (part.get_dtype(), tuple(part.get_shape())) == (entries[name].dtype, entries[name].shape)
            raw = path.read_bytes()
            data = raw[8 + struct.unpack("<Q", raw[:8])[0] :][entries[name].start : entries[name].stop]
            assert data == tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes()


@given(st.binary(max_size=300))
@IN_TMP
def test_any_bytes_give_entries_or_a_user_error(raw):
    try:
        parse_header(raw, "x")
    except UserError as error:
        assert str(error).startswith("x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4),
)


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.fixed_dictionaries(
            {"dtype": st.sampled_from(["F32", "BF16", "U8", "F4", "X"]) | JSON, "shape": JSON, "data_offsets": JSON}
        ),
        max_size=4,
    )
)
@IN_TMP
def test_any_json_gives_entries_or_a_user_error(header):
    try:
        entries = parse_header(json.dumps(header).encode(), "x")
    except UserError as error:
        assert str(error).startswith("x")
    else:
        assert all(entry.stop - entry.start >= 0 for entry in entries.values())


@given(st.data())
@IN_TMP
def test_what_is_accepted_the_library_accepts(tmp_path, data):
    """Flip bytes of a good file: whatever passes here must be a file the loader can open, with the same tensors."""
    good = bytearray(save({"a": torch.arange(6.0).reshape(2, 3), "bb": torch.ones(4, dtype=torch.bfloat16)}))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 4))
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(good[: len(good) - cut]))
    try:
        entries = read_header(path)
    except UserError:
        return
    try:
        with safe_open(path, "pt") as file:
            assert set(file.keys()) == set(entries)
    except SafetensorError as error:
        pytest.fail(f"accepted a file that the library refuses: {error}")
