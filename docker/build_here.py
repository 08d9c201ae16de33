"""Build and check the image where there is Debian and root, but no Docker and no image registry.

    .venv/bin/python docker/build_here.py [--folder DIR] [--stop]

Installs an engine and starts it with its data in DIR, makes a Debian base and a folder of wheels,
then builds, measures and checks the image. Only apt and pip fetch anything, as they are set up
here. The engine is left running, for `rayasr launch --on docker`; `--stop` ends it.
"""

import argparse
import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from launcher.docker.commands import DockerCli
from launcher.docker.image import (
    DEFAULT_IMAGE,
    BuildOptions,
    build_image,
    check_image,
    image_layers,
)

CHECKOUT = Path(__file__).resolve().parents[1]
NEEDED = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", ".dockerignore")
FOLDERS = ("rayasr", "launcher", "docker")
BASE = "debian-python:bookworm"
PORT = 3141
"""Where the wheels are served; always the same, as Docker builds anew where an argument differs."""
ENGINE = (
    *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
    *("--ip-masq=false", "--storage-driver=overlay2"),
)
"""No bridge and no rules of its own: it needs no rights over this machine's network."""


def main() -> None:
    """Do all steps, or end the engine."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/rayasr-docker"))
    parser.add_argument("--stop", action="store_true", help="end the engine, and leave")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.stop:
        os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
        return
    folder.mkdir(parents=True, exist_ok=True)
    docker = DockerCli(os.environ | {"DOCKER_HOST": f"unix://{folder}/docker.sock"})
    copy = folder / "checkout"
    timed("install", install)
    timed("start the engine", lambda: start_engine(docker, folder))
    timed("make the base", lambda: make_base(docker, folder))
    timed("copy the checkout", lambda: copy_checkout(copy))
    timed("fetch wheels", lambda: fetch_wheels(copy, folder / "wheels"))
    with serving(folder / "wheels"):
        timed("build", lambda: build(docker, copy))
    timed("build again", lambda: build(docker, copy))
    with (copy / "launcher" / "plan.py").open("a") as code:
        code.write(f"# {time.time()}\n")
    timed("build after a change of the code", lambda: build(docker, copy))
    timed("check", lambda: check_image(docker, DEFAULT_IMAGE))
    for layer in image_layers(docker, DEFAULT_IMAGE):
        print(f"{layer.size / 1e6:8.1f} MB  {layer.created_by[:70]}")
    print(f"export DOCKER_HOST={docker.environment['DOCKER_HOST']}")


def timed(what: str, step: Callable[[], None]) -> None:
    """Do a step, and tell how long it took."""
    began = time.monotonic()
    step()
    print(f"=== {what}: {time.monotonic() - began:.1f} s", flush=True)


def install() -> None:
    """Get the engine and debootstrap from Debian, if they are not here."""
    if not (shutil.which("dockerd") and shutil.which("debootstrap")):
        command("apt-get", "update", "--quiet")
        packages = ("docker.io", "debootstrap")
        command("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *packages)


def start_engine(docker: DockerCli, folder: Path) -> None:
    """Start the engine, unless it runs, and wait until it answers."""
    if (folder / "docker.sock").exists() and docker.output("version"):
        return
    with (folder / "log").open("w") as log:
        subprocess.Popen(
            [
                *("dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec"),
                *("--pidfile", folder / "pid", "--host", docker.environment["DOCKER_HOST"]),
                *ENGINE,
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    for _ in range(60):
        time.sleep(0.5)
        if (folder / "docker.sock").exists():
            docker.output("version")
            return
    sys.exit(f"the engine did not start; see {folder}/log")


def make_base(docker: DockerCli, folder: Path) -> None:
    """Import Debian with Python as an image, once."""
    if docker.output("images", "--quiet", BASE):
        return
    root = folder / "debian"
    shutil.rmtree(root, ignore_errors=True)
    packages = "--include=ca-certificates,python3"
    command("debootstrap", "--variant=minbase", packages, "bookworm", str(root))
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    tar = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
    subprocess.run(
        ["docker", "import", "-", BASE], stdin=tar.stdout, env=docker.environment, check=True
    )
    if tar.wait():
        sys.exit("tar failed")


def copy_checkout(copy: Path) -> None:
    """Copy what the image needs, so that the checkout stays as it is."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in NEEDED:
        shutil.copy2(CHECKOUT / name, copy / name)
    for name in FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__", "*.whl")
        shutil.copytree(CHECKOUT / name, copy / name, ignore=ignore)


def fetch_wheels(copy: Path, wheels: Path) -> None:
    """Get the wheels of everything that the image needs."""
    project = tomllib.loads((copy / "pyproject.toml").read_text())["project"]
    pip = ("-m", "pip", "download", "--quiet", "--dest", str(wheels), "--find-links", str(wheels))
    constraints = ("--constraint", str(copy / "constraints.txt"))
    command(sys.executable, *pip, *constraints, *project["dependencies"], "setuptools>=75")


@contextmanager
def serving(wheels: Path) -> Iterator[None]:
    """Serve the wheels on loopback: in the build's folder each build would send them all."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=wheels)
    with ThreadingHTTPServer(("127.0.0.1", PORT), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def build(docker: DockerCli, copy: Path) -> None:
    """Build the image from the wheels; apt alone is let out, for pip itself."""
    arguments = ("PIP_NO_INDEX=1", f"PIP_FIND_LINKS=http://127.0.0.1:{PORT}")
    options = BuildOptions(base=BASE, build_args=arguments, network="host")
    build_image(docker, copy, options)


def command(*arguments: str) -> None:
    """Run a program, and end where it fails."""
    if code := subprocess.run(arguments, check=False).returncode:
        sys.exit(f"{arguments[0]} ended with {code}")


if __name__ == "__main__":
    main()
