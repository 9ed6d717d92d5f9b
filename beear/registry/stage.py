"""A checkpoint folder laid out as an MLflow model of the transformers flavor, without a weight being read or copied.

``mlflow.transformers.save_model`` takes a folder too, but copies it whole, asks the hub for a licence, and in
mlflow 3.17 fails with transformers 5, whose task table holds names where it expects classes. The layout is made
from the public ``Model`` class instead. The weights lie at the top of the model, so that what is downloaded loads
with transformers alone.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from mlflow.models import Model

_WEIGHTS = (".safetensors", ".safetensors.index.json")
_PACKAGES = ("mlflow", "torch", "transformers", "accelerate", "safetensors")


def stage(source: str, target: str, model: "Model") -> None:
    """Fill ``target`` (made here) with the files of ``source`` as hard links, MLmodel and the environment files.

    Hard links need ``target`` on the same file system; elsewhere the files are copied.

    Args:
        source: the exported checkpoint: config.json, safetensors, tokenizer files.
        target: where to lay the model out.
        model: a new MLflow model with its ids; given its flavors here.
    """
    root = pathlib.Path(target)
    shutil.copytree(source, root, copy_function=_link)
    # MLflow looks for the tokenizer here; its files are small.
    tokenizer = root / "components" / "tokenizer"
    tokenizer.mkdir(parents=True)
    for file in sorted(pathlib.Path(source).iterdir()):
        if file.is_file() and not file.name.endswith(_WEIGHTS) and file.suffix in (".json", ".jinja", ".txt", ".model"):
            _link(str(file), str(tokenizer / file.name))
    packages = requirements()
    _environment(root, packages)
    _flavors(model, source)
    model.model_size_bytes = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    model.save(str(root / "MLmodel"))


def requirements() -> list[str]:
    """Return the pinned packages the model needs to load, local version labels left out."""
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name}=={importlib.metadata.version(name).partition('+')[0]}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def _environment(root: pathlib.Path, packages: list[str]) -> None:
    python = platform.python_version()
    (root / "requirements.txt").write_text("\n".join(packages) + "\n", encoding="utf-8")
    build = ["pip", "setuptools", "wheel"]
    (root / "python_env.yaml").write_text(
        yaml.safe_dump({"python": python, "build_dependencies": build, "dependencies": ["-r requirements.txt"]}),
        encoding="utf-8",
    )
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": packages}],
    }
    (root / "conda.yaml").write_text(yaml.safe_dump(conda), encoding="utf-8")


def _flavors(model: "Model", source: str) -> None:
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    config = json.loads((pathlib.Path(source) / "config.json").read_text(encoding="utf-8"))
    dtype = config.get("dtype") or config.get("torch_dtype")
    model.add_flavor(
        "transformers",
        transformers_version=importlib.metadata.version("transformers"),
        task="text-generation",
        instance_type="TextGenerationPipeline",
        pipeline_model_type=config["architectures"][0],
        source_model_name="",
        model_binary=".",
        components=["tokenizer"],
        # The Auto class: it is always there, so that loading never falls back to code from the checkpoint.
        tokenizer_type="AutoTokenizer",
        **({"torch_dtype": f"torch.{dtype}"} if dtype else {}),
    )
    mlflow.pyfunc.add_to_model(model, loader_module="mlflow.transformers", conda_env="conda.yaml", python_env="python_env.yaml")
    text = Schema([ColSpec(DataType.string)])
    model.signature = ModelSignature(inputs=text, outputs=text)
