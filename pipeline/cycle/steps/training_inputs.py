"""Inputs of a training: the next data set version, and the requests of the training jobs.

    config/SITE/MODEL/search.yaml            the search file; the default search applies without one
    datasets/SITE/MODEL/base/                the base before there is a released model; optional
    datasets/SITE/MODEL/DIGEST16/            each version that a cycle built
    cycle/v1/executions/NAME/                of this execution: search.json, champion/

The base of a version is the data set of the running release. A version that led to no release is never a base, so bad
labels do not spread. The base is also the anchor: a second data set on which candidates are compared.

Promise: labels that contradict known ones are refused (PoisonedDatasetError), and a version without new samples ends
the cycle (NothingNewError), before any cost arises.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from agent.errors import KensaError
from pipeline.cloud import aws_clients
from pipeline.cloud.folder_copy import download_folder, upload_folder
from pipeline.cloud.storage import ObjectMissingError
from pipeline.cycle.deployment.deployments import desired_release
from pipeline.cycle.execution import safe_key_part, to_json_bytes
from pipeline.cycle.services import deployments_of, publisher_of, registry_of
from pipeline.dataset_reader import DatasetError
from pipeline.datasets import dataset_builder as builder
from pipeline.sagemaker.job_request import JobSettings, choice_request, training_request
from pipeline.search.search_runner import resolve_settings
from pipeline.search.search_space import SearchSettings, default_settings, plan_trainings
from pipeline.selection.candidate_record import CandidateStatus
from pipeline.selection.training_plan import next_version
from pipeline.strict_json import parse_json, validate

if TYPE_CHECKING:
    from pipeline.cycle.execution import Execution
    from pipeline.datasets.dataset_version import DatasetVersion
    from pipeline.selection.candidate_record import RegistryEntry

_SHOWN: Final = 5
_DIGITS: Final = 16
_MAX_SEARCH_BYTES: Final = 256 * 1024
_JOB_NAME: Final = 60  # characters; SageMaker allows 63, and the attempt's number follows


class PoisonedDatasetError(KensaError):
    """The new labels contradict known ones: a person must check them before anything is trained."""

    exit_code = 3


class NothingNewError(KensaError):
    """There are no new samples since the last version: there is nothing to train on."""

    exit_code = 5


def build_dataset(execution: Execution) -> dict[str, Any]:
    """Build and store the next version of the data set, and resolve the settings of the search."""
    request, data = execution.request, execution.data
    place = f"datasets/{request.site}/{request.model}"
    champion = current_release(execution)
    with tempfile.TemporaryDirectory(prefix="kensa-dataset-") as temporary:
        base = _fetch_base_dataset(execution, champion, Path(temporary) / "base")
        version = builder.build_dataset(
            data,
            data if next(iter(data.list("labels/v1/")), None) else None,
            base,
            Path(temporary) / "built",
            name=request.model,
            settings=builder.BuildSettings(site=request.site, inspection=request.inspection),
        )
        _reject_poisoned(version)
        if version.parent is not None and version.digest == version.parent:
            raise NothingNewError(f"the version {version.digest[:_DIGITS]} of {request.model} holds nothing new")
        uri = execution.uri(place, version.digest[:_DIGITS])
        upload_folder(Path(temporary) / "built", aws_clients.storage(uri))
        settings = resolve_settings(_search_settings(execution), Path(temporary) / "built")
    anchor = None if champion is None else champion.record.dataset_uri
    data.write(f"{execution.prefix}/search.json", to_json_bytes(settings.model_dump(mode="json")))
    quality = version.quality
    doubts = quality.conflicts.count + quality.near_conflicts.count
    return {
        "uri": uri,
        "digest": version.digest,
        "samples": len(version.samples),
        "anchors": [] if anchor is None else [anchor],
        "doubts": doubts,
        "unreadable": quality.unreadable.count,
    }


def plan_training(execution: Execution) -> dict[str, Any]:
    """Build the requests of all training jobs and of the job that chooses among their models."""
    request, data, dataset = execution.request, execution.data, execution.step_result("dataset")
    search = parse_json(SearchSettings, data.read(f"{execution.prefix}/search.json"), "search.json")
    search = search.model_copy(update={"name": request.model, "version": _next_version(execution)})
    trained = execution.uri("training", execution.name)
    jobs = [
        training_request(one, _job_settings(execution, trained), data_uri=dataset["uri"], cycle=execution.name)
        for one in plan_trainings(search)
    ]
    champion = _export_champion(execution)
    choice = choice_request(
        search.policy,
        _job_settings(execution, execution.uri("choices", execution.name)),
        data_uri=dataset["uri"],
        candidates_uri=trained,
        champion_uri=champion,
        anchor_uris=dataset["anchors"] if champion else (),
        cycle=execution.name,
    )
    own = ("TrainingJobName", "HyperParameters")
    return {
        "jobs": [{key: job[key] for key in own} for job in map(_with_job_name, jobs)],
        "common": {
            key: value for key, value in jobs[0].items() if key not in own
        },  # the size of an execution's state is limited
        "choice": _with_job_name(choice),
        "champion": champion,
    }


def current_release(execution: Execution) -> RegistryEntry | None:
    """The registry's entry of the newest release that was published and not rolled back."""
    entries = registry_of(execution).list(execution.request.model)
    return next((entry for entry in reversed(entries) if entry.status is CandidateStatus.RELEASED), None)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _fetch_base_dataset(execution: Execution, champion: RegistryEntry | None, into: Path) -> Path | None:
    if champion is not None and champion.record.dataset_uri:
        download_folder(aws_clients.storage(champion.record.dataset_uri), into)
        return into
    request = execution.request
    found = download_folder(execution.data, into, f"datasets/{request.site}/{request.model}/base/")
    return into if found else None


def _reject_poisoned(version: DatasetVersion) -> None:
    if not version.quality.is_suspicious:
        return
    found = [f"{one.source}: {' '.join(one.reasons)}" for one in version.quality.suspicions if one.reasons]
    raise PoisonedDatasetError(
        "The labels contradict known ones, so nothing is trained on them. " + " ".join(found[:_SHOWN]) + " "
        "`kensa cloud labels conflicts` lists them; a person's label of the source `review` settles each."
    )


def _search_settings(execution: Execution) -> SearchSettings:
    key = f"config/{execution.request.site}/{execution.request.model}/search.yaml"
    try:
        text = execution.data.read(key, limit=_MAX_SEARCH_BYTES)
    except ObjectMissingError:
        return default_settings()
    try:
        return validate(SearchSettings, yaml.safe_load(text) or {}, key)
    except yaml.YAMLError as error:
        raise DatasetError(f"{key} is not YAML: {error}") from error


def _next_version(execution: Execution) -> str:
    """The version that follows all versions registered or published under the model's name."""
    model = execution.request.model
    known = [entry.record.version for entry in registry_of(execution).list(model)]
    known += [
        release_id.partition("/")[2]
        for release_id in publisher_of(execution).published(execution.request.site)
        if release_id.startswith(f"{model}/")
    ]
    newest = max(known, key=lambda v: tuple(int(part) for part in v.partition("-")[0].split(".")), default=None)
    return "1.0.0" if newest is None else next_version(newest)


def _export_champion(execution: Execution) -> str | None:
    """Upload the release that the fleet runs for the jobs; returns its URI, None before the first release."""
    request, publisher = execution.request, publisher_of(execution)
    published = publisher.published(request.site)
    release_id = desired_release(deployments_of().components(execution.settings.fleet_target), request.inspection)
    if release_id not in published:
        mine = [one for one in published.values() if one.release_id.startswith(f"{request.model}/")]
        newest = max(mine, key=lambda one: one.counter, default=None)
        release_id = None if newest is None else newest.release_id
    if release_id is None:
        return None
    uri = execution.uri(execution.prefix, "champion")
    with tempfile.TemporaryDirectory(prefix="kensa-champion-") as temporary:
        publisher.fetch(release_id, request.site, Path(temporary))
        upload_folder(Path(temporary), aws_clients.storage(uri))
    return uri


def _job_settings(execution: Execution, output_uri: str) -> JobSettings:
    settings = execution.settings
    return JobSettings(
        role_arn=settings.training_role,
        image_uri=settings.training_image,
        source_uri=settings.training_source,
        output_uri=output_uri,
        region=execution.arn.split(":")[3],
        instance_type=settings.training_instance,
        max_runtime_s=settings.training_s,
        spot=settings.training_spot,
        kms_key=settings.training_key,
        tags={"kensa-site": execution.request.site, "kensa-model": execution.request.model},
    )


def _with_job_name(request: dict[str, Any]) -> dict[str, Any]:
    """The request with a job name short enough to append the attempt's number."""
    name = request["TrainingJobName"][-_JOB_NAME:].strip("-")
    return {**request, "TrainingJobName": safe_key_part(name)}
