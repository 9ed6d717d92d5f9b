"""A checkpoint folder laid out as an MLflow model of the transformers flavor. No weight is read or copied.

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

import yaml

_WEIGHTS = (".safetensors", ".safetensors.index.json")
_PACKAGES = ("mlflow", "torch", "transformers", "accelerate", "safetensors")


def stage(source: str, target: str, *, location: str, run_id: str, model_id: str) -> None:
    """Create ``target`` with the files of ``source`` as hard links, MLmodel and the environment files.

    Hard links need ``target`` on the same file system; elsewhere the files are copied.

    Args:
        source: the exported checkpoint: config.json, safetensors, tokenizer files.
        target: the folder to create.
        location: where the server will keep the model's files.
        run_id: the run that made the model.
        model_id: the logged model's.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    root = pathlib.Path(target)
    shutil.copytree(source, root, copy_function=_link)
    # MLflow looks for the tokenizer here; its files are small.
    tokenizer = root / "components" / "tokenizer"
    tokenizer.mkdir(parents=True)
    for file in sorted(pathlib.Path(source).iterdir()):
        if file.is_file() and not file.name.endswith(_WEIGHTS) and file.suffix in (".json", ".jinja", ".txt", ".model"):
            _link(str(file), str(tokenizer / file.name))
    _write_environment(root, requirements())
    model = Model(artifact_path=location, run_id=run_id, model_uuid=model_id, model_id=model_id)
    model.add_flavor("transformers", **_flavor(json.loads((root / "config.json").read_text(encoding="utf-8"))))
    mlflow.pyfunc.add_to_model(model, loader_module="mlflow.transformers", conda_env="conda.yaml", python_env="python_env.yaml")
    text = Schema([ColSpec(DataType.string)])
    model.signature = ModelSignature(inputs=text, outputs=text)
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


def _write_environment(root: pathlib.Path, packages: list[str]) -> None:
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


def _flavor(config: dict[str, object]) -> dict[str, object]:
    """Return what MLmodel says of the transformers flavor, from the checkpoint's config.json."""
    dtype, architectures = config.get("dtype") or config.get("torch_dtype"), config["architectures"]
    assert isinstance(architectures, list)
    flavor: dict[str, object] = {
        "transformers_version": importlib.metadata.version("transformers"),
        "task": "text-generation",
        "instance_type": "TextGenerationPipeline",
        "pipeline_model_type": architectures[0],
        "source_model_name": "",
        "model_binary": ".",
        "components": ["tokenizer"],
        # The Auto class: it is always there, so that loading never falls back to code from the checkpoint.
        "tokenizer_type": "AutoTokenizer",
    }
    return flavor | ({"torch_dtype": f"torch.{dtype}"} if dtype else {})
