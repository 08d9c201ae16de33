"""The image's self-test: `python -m launcher.docker.image_check` inside it; needs no network."""

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BUILD_TOOLS = ("gcc", "g++", "cc", "clang", "make", "cmake", "ninja", "nvcc", "git")
PACKAGES = ("soundfile", "kaldialign", "sentencepiece", "pyarrow", "safetensors", "boto3")
MIN_SHM_BYTES = 64 * 1024 * 1024
"""What Docker gives without --shm-size; Ray's object store needs more."""


def main() -> int:
    """Run every check; 0 where all hold, else 1."""
    failed = 0
    for check in CHECKS:
        try:
            verdict, found = "ok", check()
        except Exception as error:  # whatever breaks is the finding
            verdict, found = "FAILED", f"{type(error).__name__}: {error}"
            failed += 1
        print(f"{verdict:7} {check.__name__.replace('_', ' ')}: {found}", flush=True)
    return int(failed > 0)


def python() -> str:
    """The interpreter, and the machine it was made for."""
    return f"{platform.python_version()} on {platform.machine()}"


def torch_works() -> str:
    """Torch computes; what it was built for."""
    torch: Any = importlib.import_module("torch")
    product = torch.ones(8, 8) @ torch.ones(8, 8)
    if float(product.sum()) != 512:
        raise ArithmeticError(f"ones(8, 8) @ ones(8, 8) sums to {float(product.sum())}")
    facts = json.loads(Path(sys.prefix, "torch.json").read_text(encoding="utf-8"))
    return f"{facts['torch']}, CUDA {facts['cuda'] or 'none'}, {facts['arch_list'] or 'CPU only'}"


def gpus() -> str:
    """Each GPU that is here computes; none is no fault."""
    torch: Any = importlib.import_module("torch")
    names = []
    for number in range(torch.cuda.device_count()):
        names.append(torch.cuda.get_device_name(number))
        torch.ones(8, device=f"cuda:{number}").sum().item()
    return ", ".join(names) or "none here"


def packages() -> str:
    """What comes with compiled parts loads."""
    for name in PACKAGES:
        importlib.import_module(name)
    return ", ".join(PACKAGES)


def programs() -> str:
    """The programs of a job are on PATH, and rayasr answers."""
    for name in ("train", "rayasr", "ray"):
        if shutil.which(name) is None:
            raise FileNotFoundError(f"{name} is not on PATH")
    subprocess.run(["ray", "--version"], check=True, capture_output=True)
    subprocess.run(["rayasr", "train", "--help"], check=True, capture_output=True)
    return "train, rayasr, ray"


def no_build_tools() -> str:
    """Compilers stayed behind."""
    found = [name for name in BUILD_TOOLS if shutil.which(name)]
    if found:
        raise FileExistsError(f"{', '.join(found)} should not ship")
    return "none"


def shared_memory() -> str:
    """How much there is for Ray's object store here."""
    room = os.statvfs("/dev/shm")
    size = room.f_blocks * room.f_frsize
    hint = "; give `docker run --shm-size`" if size <= MIN_SHM_BYTES else ""
    return f"{size / 2**20:.0f} MiB{hint}"


CHECKS: tuple[Callable[[], str], ...] = (
    python,
    torch_works,
    gpus,
    packages,
    programs,
    no_build_tools,
    shared_memory,
)


if __name__ == "__main__":
    sys.exit(main())
