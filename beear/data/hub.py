"""Data sets of the Hugging Face hub, fetched only when ``hub:ORG/NAME[:SPLIT]`` was asked for."""

from beear.data.suffixes import FORMATS, PACKED_INSIDE, PACKINGS, stem
from beear.errors import UserError

PREFIX = "hub:"
DEFAULT = "train"
CONVERTED = "refs/convert/parquet"
# The best first: a repository may hold the same rows in more than one format.
TEXTS = tuple(extension for extension, name in FORMATS.items() if name not in PACKED_INSIDE)
READABLE = (".parquet", *TEXTS, *(extension + packing for extension in TEXTS for packing in PACKINGS), ".xlsx")


def is_hub(path: str) -> bool:
    """Say whether ``path`` names a hub data set."""
    return path.startswith(PREFIX)


def fetch(path: str) -> list[str]:
    """Download the data files of ``hub:ORG/NAME[:SPLIT]`` (split ``train`` when unsaid) and return their local paths.

    The hub's own parquet conversion is preferred; without one, readable files of the main branch are taken.

    Raises:
        UserError: the name is malformed, the hub cannot be reached, or there is no such data set, split or file.
    """
    name, _, split = path.removeprefix(PREFIX).partition(":")
    if name.count("/") != 1:
        raise UserError(f'data path "{path}" is not a hub data set; expected hub:ORG/NAME or hub:ORG/NAME:SPLIT.')
    try:
        revision, files = _listing(name)
        chosen = choose(files, split or DEFAULT)
        if not chosen:
            raise UserError(f'{path} has no readable file of split "{split or DEFAULT}" among {len(files)} files.')
        return [_download(name, file, revision) for file in chosen]
    except UserError:
        raise
    except Exception as error:  # the hub client raises many kinds of errors, and each means that the data is not available
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"{path} cannot be fetched from the hub ({reason}); go online, or give a file.") from error


def choose(files: list[str], split: str) -> list[str]:
    """Return the readable files with ``split`` in their folder's or file's name; for train also the only file, whatever its name.

    Of files that differ in format and packing alone, only the best is taken: they hold the same rows.
    """
    best: dict[str, str] = {}
    for file in sorted((f for f in files if f.lower().endswith(READABLE) and not f.startswith(".")), key=_rank):
        best.setdefault(stem(file), file)
    readable = sorted(best.values())
    named = [f for f in readable if split in f.replace("-", "/").replace(".", "/").replace("_", "/").split("/")]
    if named:
        folder = named[0].split("/")[0]
        return [f for f in named if f.split("/")[0] == folder]
    return readable if len(readable) == 1 and split == DEFAULT else []


def _rank(file: str) -> int:
    return next(place for place, extension in enumerate(READABLE) if file.lower().endswith(extension))


def _listing(name: str) -> tuple[str | None, list[str]]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    api = HfApi()
    try:
        return CONVERTED, api.list_repo_files(name, repo_type="dataset", revision=CONVERTED)
    except RevisionNotFoundError:
        return None, api.list_repo_files(name, repo_type="dataset")


def _download(name: str, file: str, revision: str | None) -> str:
    from huggingface_hub import hf_hub_download

    return str(hf_hub_download(name, file, repo_type="dataset", revision=revision))
