"""What timm and transformers fetch: their libraries, files from the Hugging Face hub, and what to do without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ssl import SSLError
from urllib.error import HTTPError
from urllib.request import Request, urlopen

_PATIENCE = 5.0  # seconds for the hub to answer at all


@contextmanager
def needed(library: str, door: str) -> Iterator[None]:
    """Around the import of a library that fimviz works without: an error that says how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != library:
            raise
        raise ModuleNotFoundError(f"fv.{door} needs {library}: pip install {library}", name=library) from None


@contextmanager
def fetching(what: str, mend: str) -> Iterator[None]:
    """Around downloads from the hub: where it cannot be reached its cache alone is asked, and nothing is retried.

    Raises:
        ConnectionError: the cache lacks a file; it says of what, and what to do.
    """
    from huggingface_hub import constants

    away = "" if constants.HF_HUB_OFFLINE else _away(constants.ENDPOINT)
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE or bool(away)
    try:
        yield
    except OSError as error:
        if not constants.HF_HUB_OFFLINE:
            raise
        why = f"{constants.ENDPOINT} cannot be reached: {away}" if away else "HF_HUB_OFFLINE is set"
        raise ConnectionError(
            f"{what} cannot be fetched here ({why}) and is not in the cache {constants.HF_HUB_CACHE}: {mend}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _away(endpoint: str) -> str:
    """Why the hub does not answer; empty if it does. The library itself would try for a minute."""
    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=_PATIENCE):
            return ""
    except HTTPError:  # an answer
        return ""
    except OSError as error:
        reason = getattr(error, "reason", error)
        return "" if isinstance(reason, SSLError) else str(reason)  # certificates are the library's own matter
