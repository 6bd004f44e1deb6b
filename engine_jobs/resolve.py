"""What a model's revision is, exactly, asked of the Hub before anything is built; and what the Hub's refusals mean."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_jobs.errors import UserError

TOKEN_HINT = "Set HF_TOKEN, or HF_TOKEN_PATH to a file that holds it (in the cluster: the Secret with the Hub token)."


class TransientHubError(UserError):
    """The Hub did not answer, or answered that it can't just now: worth another try."""


@dataclass(frozen=True, kw_only=True)
class HubModelRevision:
    """A model at a revision (branch, tag or commit) on one Hub. `endpoint` None: HF_ENDPOINT, else the public Hub.

    `token` None: huggingface_hub's own chain (HF_TOKEN, HF_TOKEN_PATH, the saved login).
    """

    model: str
    revision: str
    endpoint: str | None = None
    token: str | None = None

    def effective_token(self) -> str | None:
        from huggingface_hub import get_token

        return self.token or get_token()

    def effective_endpoint(self) -> str:
        from huggingface_hub import constants

        return (self.endpoint or constants.ENDPOINT).rstrip("/")


def resolve_revision(model: str, revision: str = "main", endpoint: str | None = None, token: str | None = None) -> str:
    """The 40-hex commit of the model's revision, its files being readable with this token.

    Raises UserError where the model or the revision is absent, the model is gated and the token missing or without
    access, or the Hub can't be reached (TransientHubError).
    """
    wanted = HubModelRevision(model=model, revision=revision, endpoint=endpoint, token=token)
    with explained(wanted):
        # huggingface_hub takes a moment to import: only those who ask a Hub pay for it.
        from huggingface_hub import HfApi

        api = HfApi(endpoint=wanted.effective_endpoint(), token=wanted.effective_token() or False)
        info = api.model_info(model, revision=revision, timeout=20)
        if info.gated:
            # A gated model's description is public and its files are not.
            api.auth_check(model)
    if info.sha is None:
        raise UserError(f"{wanted.effective_endpoint()} names no commit for {model}: is this a Hugging Face Hub?")
    return info.sha


def read_config(model: str, revision: str, endpoint: str | None = None, token: str | None = None) -> Mapping[str, Any]:
    """The content of the model's config.json at the revision. Raises UserError as `resolve_revision`, and for a file that is no
    JSON object."""
    wanted = HubModelRevision(model=model, revision=revision, endpoint=endpoint, token=token)
    with explained(wanted), tempfile.TemporaryDirectory() as folder:
        from huggingface_hub import hf_hub_download

        file = hf_hub_download(
            model,
            "config.json",
            revision=revision,
            endpoint=wanted.effective_endpoint(),
            token=wanted.effective_token() or False,
            local_dir=folder,
        )
        try:
            config = json.loads(Path(file).read_bytes())
        except ValueError as error:
            raise UserError(f"{model} at {revision}: its config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{model} at {revision}: its config.json is not a JSON object")
    return config


@contextmanager
def explained(wanted: HubModelRevision) -> Iterator[None]:
    """Turns huggingface_hub's errors into UserErrors that say what is wrong with model, revision, token or endpoint."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise UserError(f"{wanted.model!r} is not a model id ({error}). Write it as ORGANIZATION/NAME.") from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError(f"{wanted.model}: HF_HUB_OFFLINE is set, so the Hub can't be asked. Unset it.") from error
    except errors.HfHubHTTPError as error:
        raise refusal(wanted, error) from error
    except errors.LocalEntryNotFoundError as error:
        # What snapshot_download makes of a failed request when it has nothing in its cache.
        cause = error.__cause__
        raise (
            refusal(wanted, cause) if isinstance(cause, errors.HfHubHTTPError) else unreachable(wanted, cause or error)
        ) from error
    except httpx2.HTTPError as error:
        raise unreachable(wanted, error) from error
    except ValueError as error:
        raise UserError(
            f"{wanted.effective_endpoint()} did not answer like a Hugging Face Hub ({error}): is HF_ENDPOINT "
            "(or --endpoint) right?"
        ) from error


def refusal(wanted: HubModelRevision, error: Exception) -> UserError:
    """What an HTTP error of the Hub means for this model."""
    from huggingface_hub import errors

    at = f"{wanted.model} at {wanted.effective_endpoint()}"
    token = wanted.effective_token()
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if isinstance(error, errors.GatedRepoError):
        if token is None:
            return UserError(f"{at} is gated, and there is no token. {TOKEN_HINT}")
        return UserError(
            f"{at} is gated, and the account of the token has no access to it. Ask for access on the model's page, "
            f"or use another account's token. {TOKEN_HINT}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        also = " It may also be private: then it takes a token. " + TOKEN_HINT if token is None else ""
        return UserError(f"{at}: there is no such model, or the token can't see it. Check the id.{also}")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{at} has no revision {wanted.revision!r}: give a branch, a tag or a commit of it.")
    if isinstance(error, errors.DisabledRepoError):
        return UserError(f"{at} was disabled by the Hub: choose another model.")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return UserError(f"{at} lacks a file at revision {wanted.revision}: {error.response.url}.")
    if status == 401:
        return UserError(f"{at}: the Hub does not accept the token. Make a new one, or remove it. {TOKEN_HINT}")
    if status in (408, 429) or status >= 500:
        return TransientHubError(f"{at}: the Hub answered {status}, it can't serve this now. Try again later.")
    return UserError(f"{at}: the Hub refused with status {status}: {str(error).strip().splitlines()[0]}")


def unreachable(wanted: HubModelRevision, error: BaseException) -> TransientHubError:
    """The Hub did not answer at all."""
    return TransientHubError(
        f"{wanted.model}: the Hub at {wanted.effective_endpoint()} can't be reached ({type(error).__name__}: {error}). "
        "Is it up, and is HF_ENDPOINT (or --endpoint) the right address?"
    )
