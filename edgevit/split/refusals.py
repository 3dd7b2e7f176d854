"""What can be refused before torch is imported: names that are unknown, files that are there or are not."""

from __future__ import annotations

from pathlib import Path

from edgevit import registry
from edgevit.artifact.staging import check_vacant
from edgevit.bundle.manifest import BUNDLE
from edgevit.data.source import check_spec
from edgevit.errors import Unsupported
from edgevit.export.targets import Target, choose
from edgevit.models.loading.choice import check as check_model
from edgevit.precisions import INTEGER_PRECISIONS
from edgevit.split.options import PARTITIONS, SplitJob, file_digest


def check(job: SplitJob) -> None:
    """The errors of ``run_split`` that show without a model or data being read."""
    options = job.options
    if options.amp != "no":
        registry.need("mixed precision", ("accelerate",), "edgevit[split]")
    check_targets(job)
    check_vacant(job.out, force=job.force, kind="bundle", marker=BUNDLE)
    check_model(job.model)
    check_spec(job.data)
    for file in (options.fleet, None if options.partition in PARTITIONS else Path(options.partition)):
        if file is not None:
            file_digest(file)


def check_targets(job: SplitJob) -> list[Target]:
    """The exporters asked for. UsageError, Unsupported or MissingDependency before any work is done."""
    if job.precision in INTEGER_PRECISIONS:
        raise Unsupported(
            f"the parts of a split model cannot be {job.precision}: its fusion head has no rows to find ranges on",
            hint="split in fp32 or fp16; edgevit export takes --precision int8",
        )
    return [choose(name, job.precision) for name in job.targets]
