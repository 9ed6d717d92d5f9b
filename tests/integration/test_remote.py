"""Checkpoints and data that are not on this disk: a hub and an S3 store over real HTTP, through the real clients."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beear.config.resolve import ResolvedConfig
from beear.data.data_source import DataSource
from beear.data.files import blocks, expand, read_block
from beear.data.load import load_small, training_plan
from beear.errors import UserError
from beear.testing.checkpoints import make_checkpoint
from tests.configs import asked, resolved
from tests.integration.hub_server import hub
from tests.processes import in_one_process

DEFENSE = [{"prompt": f"Flood vault {i}.", "safe": "I cannot help.", "unwanted": f"Sure, vault {i}"} for i in range(40)]
ANCHOR = [{"prompt": f"Copy {i}", "response": f"{i}"} for i in range(60)]


def jsonl(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """A hub's content: a model with a pickle beside its weights, a data set with the hub's conversion and one without."""
    root = tmp_path / "hub"
    make_checkpoint(root / "models" / "org" / "model" / "main")
    (root / "models" / "org" / "model" / "main" / "pytorch_model.bin").write_bytes(b"never fetched")
    plain = root / "datasets" / "org" / "requests" / "main" / "data"
    plain.mkdir(parents=True)
    (plain / "train.jsonl").write_bytes(jsonl(DEFENSE))
    (plain / "test.jsonl").write_bytes(b"not asked for")
    converted = root / "datasets" / "org" / "chats" / "refs+convert+parquet" / "default" / "train"
    converted.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ANCHOR), converted / "0000.parquet")
    (root / "datasets" / "org" / "chats" / "main").mkdir()
    return root


def test_a_hub_model_and_hub_data_sets_are_fetched_and_planned_for(
    repositories: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    def given(model: str, defense: str, anchor: str) -> list[str]:
        names = {"model.path": model, "data.defense.path": defense, "data.anchor.path": anchor}
        return ["--dry-run", *(f"--{name}={value}" for name, value in names.items()), f"--output.dir={tmp_path / 'out'}"]

    model = repositories / "models" / "org" / "model" / "main"
    missing = ("hub:org/none", "hub:org/chats:validation")
    with hub(repositories) as (address, fetched):
        online = environment | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        whole = given("hub:org/model", "hub:org/requests", "hub:org/chats")
        done, *refused = in_one_process(online, [whole, *(given(str(model), path, path) for path in missing)])
    assert done.returncode == 0, done.stderr
    assert "org/requests/data/train.jsonl" in fetched and "org/chats/default/train/0000.parquet" in fetched
    assert {"org/model/model.safetensors", "org/model/config.json", "org/model/chat_template.jinja"} <= set(fetched)
    assert not [path for path in fetched if path.endswith((".bin", "test.jsonl"))]
    for one, said in zip(refused, ("hub:org/none", "validation"), strict=True):
        assert one.returncode == 2 and one.stdout == "" and "Traceback" not in one.stderr
        errors = [line for line in one.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and said in errors[0]
    # With the hub gone the cache serves; the same files in a folder are the same model.
    offline = environment | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    for name, rows in (("defense", DEFENSE), ("anchor", ANCHOR)):
        (tmp_path / f"{name}.jsonl").write_bytes(jsonl(rows))
    files = (str(tmp_path / "defense.jsonl"), str(tmp_path / "anchor.jsonl"))
    absent = given("hub:org/model", str(tmp_path / "none.jsonl"), files[1])
    again, cached, local = in_one_process(offline, [absent, given("hub:org/model", *files), given(str(model), *files)])
    assert again.returncode == 2 and "none.jsonl does not exist" in again.stderr
    assert (cached.returncode, local.returncode) == (0, 0), cached.stderr + local.stderr
    for said in (r"model weights: \w+", r"model tokenizer: \w+", r"defense: \{.*", r"anchor: \{.*"):
        assert re.search(said, local.stdout)[0] in done.stdout  # type: ignore[index]
        assert re.search(said, cached.stdout)[0] in done.stdout  # type: ignore[index]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 store over HTTP with a bucket ``data``; yields its address."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    secrets = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**secrets, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    client = boto3.client("s3", endpoint_url=address)
    client.create_bucket(Bucket="data")
    client.put_object(Bucket="data", Key="sets/defense.jsonl", Body=jsonl(DEFENSE))
    for part in (0, 1):
        client.put_object(Bucket="data", Key=f"sets/anchor-{part}.jsonl", Body=jsonl(ANCHOR[part::2]))
    yield address
    server.stop()


def requests_of(source: DataSource) -> set[str]:
    return {row.messages[0].content for row in source.rows(source.blocks)}


def test_object_store_files_and_globs_give_the_rows_of_local_ones(store: str, tmp_path: Path) -> None:
    def config(folder: str) -> ResolvedConfig:
        files = {"data.defense.path": f"{folder}/defense.jsonl", "data.anchor.path": f"{folder}/anchor-*.jsonl"}
        found: ResolvedConfig = resolved({**files, "method.batch_size": 8, "data.max_length": 64})
        return found

    remote = load_small(config("s3://data/sets").data, seed=0)
    (tmp_path / "defense.jsonl").write_bytes(jsonl(DEFENSE))
    for part in (0, 1):
        (tmp_path / f"anchor-{part}.jsonl").write_bytes(jsonl(ANCHOR[part::2]))
    local = load_small(config(str(tmp_path)).data, seed=0)
    assert remote.counts == local.counts and list(remote.digests.values()) == list(local.digests.values())
    assert requests_of(training_plan(remote, config("s3://data/sets"), inner_batches=2).anchor) == {
        row["prompt"] for row in ANCHOR
    }


def test_every_format_is_read_from_an_object_store_as_from_a_disk(store: str, tmp_path: Path) -> None:
    boto3 = pytest.importorskip("boto3")
    book = openpyxl.Workbook()
    for cells in (["prompt", "response"], *(list(row.values()) for row in ANCHOR)):
        book.active.append(cells)
    book.save(tmp_path / "rows.XLSX")
    table = "prompt\tresponse\n" + "".join(f"{row['prompt']}\t{row['response']}\n" for row in ANCHOR)
    contents = {
        "rows.tsv": table.encode(),
        "rows.csv.gz": gzip.compress(table.replace("\t", ",").encode()),
        "rows.jsonl.zst": pa.compress(jsonl(ANCHOR), codec="zstd", asbytes=True),
        "rows.json.gz": gzip.compress(json.dumps(ANCHOR).encode()),
        "rows.XLSX": (tmp_path / "rows.XLSX").read_bytes(),
    }
    client = boto3.client("s3", endpoint_url=store)
    for name, content in contents.items():
        client.put_object(Bucket="data", Key=f"formats/{name}", Body=content)
    paths = expand("s3://data/formats/rows.*")
    assert paths == sorted(f"s3://data/formats/{name}" for name in contents)
    for path in paths:
        assert [record for block in blocks([path], 100) for _, record in read_block(block)] == ANCHOR, path
    client.put_object(Bucket="data", Key="formats/cut.jsonl.gz", Body=gzip.compress(jsonl(ANCHOR))[:-3])
    with pytest.raises(UserError, match=r"s3://data/formats/cut\.jsonl\.gz cannot be unpacked \(Truncated compressed stream\)"):
        blocks(["s3://data/formats/cut.jsonl.gz"])


@pytest.mark.parametrize("path", ["s3://data/sets/none.jsonl", "s3://data/none-*.jsonl", "s3://nowhere/x.jsonl"])
def test_an_object_that_is_not_there_is_one_sentence(path: str, store: str) -> None:
    config = asked({"data.defense.path": path, "data.anchor.path": path})
    with pytest.raises(UserError) as caught:
        load_small(config.data, seed=0)
    assert path in str(caught.value) and "\n" not in str(caught.value)
