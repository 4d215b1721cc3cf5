"""Time and memory of converting and loading, compared with a plain NumPy loop and with other libraries.

    python -m benchmarks.conversion [--runs 5]

Each job runs in a fresh process and imports its packages before the clock starts. The jobs of a group run in turns, on
a ResNet-50 of 102 MB with random weights. Ratios are those of medians. Extra memory is the peak of anonymous memory
above its level before the job, in multiples of the file's size. All libraries must be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Job:
    """One way to do the work of a group.

    Attributes:
        name: The name in the table.
        imports: The code to run before the clock starts.
        work: The code to measure; `folder` is the folder of the files.
    """

    name: str
    imports: str
    work: str


LOOP = """
arrays = {}
for name, array in load_file(folder / "timm" / "model.safetensors").items():
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif array.ndim == 2:
        array = array.T
    arrays[name] = np.ascontiguousarray(array)
save_file(arrays, folder / "loop.safetensors")
"""

HASHED_AND_SYNCED = """
digest = hashlib.sha256()
for name in sorted(arrays):
    digest.update(arrays[name].view(np.uint8).data)
with open(folder / "loop.safetensors", "rb") as file:
    os.fsync(file.fileno())
"""
"""The further work of a conversion that can be verified later and survives a power cut."""

GROUPS: Mapping[str, Sequence[Job]] = {
    "a PyTorch file in safetensors into a Keras one": (
        Job(
            "NumPy: load, transpose, save",
            "import numpy as np\nfrom safetensors.numpy import load_file, save_file",
            LOOP,
        ),
        Job(
            "NumPy: load, transpose, save, hash, sync",
            "import hashlib\nimport numpy as np\nfrom safetensors.numpy import load_file, save_file",
            LOOP + HASHED_AND_SYNCED,
        ),
        Job(
            "weights_convert",
            "import weights_convert",
            'weights_convert.load(folder / "timm" / "model.safetensors", variant="v1.5")'
            '.to("keras").save(folder / "ours.safetensors")',
        ),
    ),
    "a transformers folder into a PyTorch model": (
        Job(
            "transformers: from_pretrained",
            "from transformers import ResNetForImageClassification",
            'ResNetForImageClassification.from_pretrained(folder / "transformers")',
        ),
        Job(
            "resnet50(weights=...)",
            "from impls.torch import resnet50",
            'resnet50("v1.5", weights=folder / "transformers")',
        ),
    ),
    "a timm file into a PyTorch model": (
        Job(
            "torchvision: resnet50, load_state_dict",
            "from safetensors.torch import load_file\nfrom torchvision.models import resnet50",
            'resnet50().load_state_dict(load_file(folder / "timm" / "model.safetensors"))',
        ),
        Job(
            "resnet50(weights=...)",
            "from impls.torch import resnet50",
            'resnet50("v1.5", weights=folder / "timm" / "model.safetensors")',
        ),
    ),
    "a timm folder into a Keras model": (
        Job(
            "Keras Hub: from_preset",
            "import keras_hub",
            'keras_hub.models.ResNetImageClassifier.from_preset(str(folder / "timm"))',
        ),
        Job(
            "resnet50(weights=...)",
            "from impls.keras import resnet50",
            'resnet50("v1.5", weights=folder / "timm" / "model.safetensors")',
        ),
    ),
}

PROGRAM = """
import json, os, sys, threading, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
folder = Path(sys.argv[1])
def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024
{imports}
highest, done, before = [0], threading.Event(), anonymous()
def watch():
    while not done.wait(0.002):
        highest[0] = max(highest[0], anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
started = time.perf_counter()
{work}
seconds = time.perf_counter() - started
done.set()
watcher.join()
print(json.dumps({{"seconds": seconds, "memory": max(0, highest[0] - before)}}))
"""


def make_files(folder: Path) -> int:
    """Write the files that the jobs read, and return the size of the safetensors file in bytes."""
    import timm
    from safetensors.torch import save_file
    from transformers import ResNetConfig, ResNetForImageClassification

    (folder / "timm").mkdir()
    model = timm.create_model("resnet50")
    save_file(model.state_dict(), folder / "timm" / "model.safetensors")
    config = {"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": {"input_size": [3, 224, 224]}}
    config["pretrained_cfg"] |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "classifier": "fc"}
    config["pretrained_cfg"] |= {"interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center"}
    (folder / "timm" / "config.json").write_text(json.dumps(config))
    ResNetForImageClassification(ResNetConfig(num_labels=1000)).save_pretrained(folder / "transformers")
    return (folder / "timm" / "model.safetensors").stat().st_size


def run(job: Job, folder: Path) -> dict[str, float] | str:
    """Run a job in a process of its own; return its seconds and bytes, or the last line of its error."""
    program = PROGRAM.format(imports=job.imports, work=job.work)
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "TOKENIZERS_PARALLELISM": "false"}
    environment = os.environ | quiet | {"PYTHONPATH": os.fspath(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, os.fspath(folder)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Measure all groups and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=int, default=5, help="number of measured runs of each job, after one that is not counted"
    )
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        folder = Path(temporary)
        size = make_files(folder)
        print("| job | way | seconds | ratio | extra memory, in multiples of the file |\n|---|---|---|---|---|")
        for title, jobs in GROUPS.items():
            results: dict[str, list[dict[str, float]]] = {job.name: [] for job in jobs}
            for turn in range(runs + 1):
                for job in jobs:
                    measured = run(job, folder)
                    if isinstance(measured, str):
                        sys.exit(f"{job.name}: {measured}")
                    if turn:
                        results[job.name].append(measured)
            first = statistics.median(each["seconds"] for each in results[jobs[0].name])
            for name, measured_runs in results.items():
                seconds = statistics.median(each["seconds"] for each in measured_runs)
                memory = max(each["memory"] for each in measured_runs) / size
                print(f"| {title} | {name} | {seconds:.2f} | {seconds / first:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
