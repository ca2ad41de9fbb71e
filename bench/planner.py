"""The child process that looks at the machine and lays out the plan.

It is started as ``python -m bench.planner`` with a request as JSON on standard input, and prints
one JSON object: the plan and the environment, or ``{"error": …}`` in one line. It is a child so
that the runner itself never touches a GPU and starts without torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any

from bench import custom, environment
from bench.workloads import Profile, UsageError, Workload, find_profile
from deeprnn import corpus


def make(request: dict[str, Any]) -> dict[str, Any]:
    """The plan that ``request`` asks for.

    Its keys are those of the command line's options; ``device`` is ``cpu`` or ``cuda``. What is
    wrong with the words or the text is found before torch is imported, which takes a second.
    """
    device = request["device"]
    if "budget" in request:
        from bench.chapter import planning  # only here: a plain run needs none of it

        _require_device(device)
        return planning.make(request, device)
    own = custom.request(request)
    usual = "full" if device == "cuda" else "quick"
    if own is not None:
        profile = custom.profile(own, device)
    else:
        profile = find_profile(usual if request["profile"] is None else request["profile"])
    _require_device(device)
    text = corpus.load(request["corpus"])
    _require_length(profile, text)

    from bench.plan import plan
    from deeprnn.vocabulary import Vocabulary

    vocabulary_size = len(Vocabulary(text.text))
    cases = plan(profile, device, request["only"], vocabulary_size)
    threads = request["threads"] or environment.default_threads(device)
    notes = [*profile.leaves_out]
    at_once = environment.prepare_at_once(device, threads, profile.hurried)
    if at_once > 1 and not profile.hurried:
        notes.append(f"undisturbed cold starts: {at_once} cases are prepared at a time")
    if device == "cpu" and "cuda_graph" in profile.executions:
        notes.append("CUDA graphs, which need a GPU")
    if request["only"]:
        notes.append(f"every case that --only {' --only '.join(request['only'])} does not match")
    workloads: dict[str, Workload] = {}
    for case in cases:
        if workloads.setdefault(case.workload.id, case.workload) != case.workload:
            raise ValueError(f"two workloads have the id {case.workload.id}")
    content = {
        "schema": 1,
        "profile": profile.name,
        "purpose": profile.purpose,
        "notes": notes,
        "device": device,
        "seed": request["seed"],
        "threads": threads,
        "prepare_at_once": at_once,
        "workers_at_most": environment.workers_at_most(device),
        "speeds_count": not profile.hurried,
        "case_seconds": request["case_seconds"] or profile.case_seconds,
        "only": request["only"],
        "commit": environment.commit(),
        "machine": environment.machine_name(device),
        "corpus": {
            "name": text.name,
            "title": text.title,
            "sha256": text.sha256,
            "is_published": text.is_published,
            "note": text.note,
            "asked": request["corpus"],
        },
        "workloads": [_describe(w, vocabulary_size) for w in workloads.values()],
        "cases": [
            {
                "case_id": case.id,
                "workload": case.workload.id,
                "implementation": case.implementation,
                "execution": case.execution,
                "interpreted": case.interpreted,
                "unsupported": case.unsupported,
            }
            for case in cases
        ],
    }
    if own is not None:
        content["custom"] = own
    result: dict[str, Any] = {"plan": content, "text": text.text, "origin": text.origin}
    if request["measure"]:
        result["environment"] = environment.describe(device, threads)
        result["peaks"] = {
            f"{dtype}/{precision}": environment.matrix_product_flops(
                device, dtype, precision, threads
            )
            for dtype, precision in sorted(
                {(w.dtype, w.matmul_precision) for w in workloads.values()}
            )
        }
    return result


def _describe(workload: Workload, vocabulary_size: int) -> dict[str, Any]:
    return {
        "workload": workload.id,
        **dataclasses.asdict(workload),
        "flops_per_token": workload.flops_per_token(vocabulary_size),
    }


def _require_device(device: str) -> None:
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError(
                "--device cuda: PyTorch sees no CUDA device here; use --device cpu, or run "
                "`python -m bench doctor` to see what is missing"
            )


def _require_length(profile: Profile, text: corpus.Corpus) -> None:
    needed = max(w.num_train + w.num_validation for w in profile.workloads)
    if len(text.text) < needed:
        raise UsageError(
            f"--corpus {text.name}: {len(text.text):,} characters after normalisation, and "
            f"profile {profile.name} needs {needed:,}; give a longer text"
            f"{', or a smaller B or T' if profile.name == custom.NAME else ''}"
        )


def main() -> int:
    request = json.loads(sys.stdin.readline())
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not get into the answer
    try:
        answer = make(request)
    except (UsageError, corpus.CorpusError) as error:
        answer = {"error": str(error)}
    channel.write(json.dumps(answer) + "\n")
    channel.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
