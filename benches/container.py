"""The container image, built and run here with no daemon and no registry: by buildah and podman, on
bases that debootstrap makes.

What the machine's own clients need to reach their registries (pip's and cargo's configuration, the
authorities that they trust) is mounted while it is built, and gets into no layer.
"""

import ast
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SUITE: Final = "trixie"
IMAGE: Final = "localhost/rerankd:measured"
CUDA_IMAGE: Final = f"{IMAGE}-cuda"
_RUNTIME: Final = "localhost/rerankd-runtime:base"
_BUILDER: Final = "localhost/rerankd-builder:base"
_RUST: Final = "localhost/rerankd-rust:base"
_CUDA_BUILDER: Final = "localhost/rerankd-cuda-builder"
# Where the machine's toolchain is mounted.
_TOOLCHAIN: Final = "/opt/rust"
_SYSTEM: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_AUTHORITIES: Final = "/etc/ssl/certs/ca-certificates.crt"
ENOUGH: Final = 4096
"""Open files, and processes, of a container."""
_MOUNTED: Final = "/etc/build-authorities.crt"
# What images of Debian made for containers leave out, and tell dpkg to.
_UNREAD: Final = ("doc", "man", "info", "locale")
# Of pip's configuration, what says where packages are.
_PIP: Final = ("index-url", "extra-index-url", "trusted-host", "proxy")


def missing() -> list[str]:
    """What this machine lacks to build and run the image; empty where it can."""
    programs = ("debootstrap", "buildah", "podman", "runc", "rustc")
    lacking = [name for name in programs if shutil.which(name) is None]
    return lacking + (["to be root"] if os.geteuid() != 0 else [])


def cuda() -> Path | None:
    """Where `make cuda-env` has put nvcc, laid out as CUDA's own directory is; None before it has."""
    environment = ROOT / ".cuda/env"
    places = environment.glob("lib/python3*/site-packages/nvidia/cu13")
    return next(places, None) if (environment / ".made").is_file() else None


class Store:
    """Images and containers in a directory of their own, apart from what the machine's engines have."""

    def __init__(self, directory: Path = ROOT / ".image") -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self._roots = [f"--root={directory}/store", f"--runroot={directory}/run", "--storage-driver=overlay"]

    def buildah(self, *arguments: str) -> str:
        """What it prints; SystemExit, with what it said, where it fails."""
        return _said("buildah", *self._roots, *arguments)

    def podman(self, *arguments: str) -> list[str]:
        """A command line. Of runc's, for crun refuses machines that have both versions of cgroups."""
        return ["podman", *self._roots, "--runtime=runc", "--cgroup-manager=cgroupfs", *arguments]

    def build(self) -> str:
        """Builds the image and gives its name; layers that are there are used. Minutes, the first time."""
        self._make_runtime()
        self._make_base(_BUILDER, _RUNTIME, f"{_TOOLCHAIN}/bin:{_SYSTEM}")
        return self._build("deploy/Dockerfile", IMAGE, BUILDER=_BUILDER, RUNTIME=_RUNTIME)

    def build_cuda(self, cuda: Path) -> str:
        """As `build`, the image for GPUs; `cuda` has bin/nvcc. It runs on a Debian without cuBLAS."""
        version = _said(str(cuda / "bin/nvcc"), "--version").rpartition(", V")[2].split()[0]
        builder = f"{_CUDA_BUILDER}:{version}"
        self._make_runtime()
        # As NVIDIA's images have it. Rust is not in its path: the Dockerfile is to bring it.
        self._make_base(builder, _RUNTIME, f"/usr/local/cuda/bin:{_SYSTEM}", (cuda, "/usr/local/cuda"))
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            _link_toolchain(Path(directory))
            self._make_base(_RUST, "scratch", _SYSTEM, (Path(directory), "/usr/local"))
        bases = {"RUST": _RUST, "BUILDER": builder, "RUNTIME": _RUNTIME}
        return self._build("deploy/Dockerfile.cuda", CUDA_IMAGE, **bases)

    @contextmanager
    def confined(self, image: str) -> Iterator[list[str]]:
        """A command that runs the image as a cluster would that trusts nobody: its root read-only but for
        /tmp, no capability, and none to be had. Signals get to the image's program, whose exit code is the
        command's.
        """
        name = f"rerankd-{os.getpid()}"
        # podman's own limits are more than some machines may give.
        limits = ("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)
        values = {limit: _at_most(ENOUGH, resource.getrlimit(kind)[1]) for limit, kind in limits}
        try:
            yield self.podman(
                *("run", "--rm", f"--name={name}", "--pull=never", "--network=host"),
                *("--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:rw,size=64m"),
                *("--cap-drop=all", "--security-opt=no-new-privileges"),
                *(f"--ulimit={limit}={value}:{value}" for limit, value in values.items()),
                image,
            )
        finally:
            _said(*self.podman("rm", "--force", "--ignore", name))

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """An image's files."""
        container = self.buildah("from", "--pull-never", image)
        try:
            yield Path(self.buildah("mount", container))
        finally:
            self.buildah("rm", container)

    def _has(self, image: str) -> bool:
        return image in self.buildah("images", "--format={{.Name}}:{{.Tag}}").split()

    def _make_runtime(self) -> None:
        if not self._has(_RUNTIME):
            with tempfile.TemporaryDirectory(dir=self.directory) as directory:
                debian(Path(directory))
                self._make_base(_RUNTIME, "scratch", _SYSTEM, (Path(directory), "/"))

    def _make_base(self, name: str, base: str, path: str, *added: tuple[Path, str]) -> None:
        """An image of `base`, directories added to it, with a PATH; none where there is one of that name."""
        if self._has(name):
            return
        container = self.buildah("from", base)
        for directory, place in added:
            self.buildah("add", "--quiet", container, str(directory), place)
        self.buildah("config", "--env", f"PATH={path}", container)
        self.buildah("commit", "--quiet", "--rm", container, name)

    def _build(self, dockerfile: str, image: str, **bases: str) -> str:
        arguments = [f"--build-arg={argument}={base}" for argument, base in bases.items()]
        # Or a stage that is copied from alone leaves a container that is mounted, as does a build that fails.
        arguments.append("--force-rm")
        with _mounts() as mounts:
            self.buildah(
                *("build", "--isolation=chroot", "--layers", "--network=host", "--pull-never", *mounts),
                *(*arguments, "--file", str(ROOT / dockerfile), "--tag", image, str(ROOT)),
            )
        return image


def _link_toolchain(local: Path) -> None:
    """/usr/local of an image with Rust, as the Dockerfile copies it: links to what is mounted."""
    for place in ("rustup", "cargo/bin"):
        (local / place).mkdir(parents=True)
    for program in ("cargo", "rustc"):
        (local / "cargo/bin" / program).symlink_to(f"{_TOOLCHAIN}/bin/{program}")


def _at_most(most: int, limit: int) -> int:
    return most if limit == resource.RLIM_INFINITY else min(most, limit)


def debian(directory: Path) -> None:
    """The smallest Debian that can install packages, less what debian:*-slim leaves out too."""
    _said("debootstrap", "--variant=minbase", SUITE, str(directory))
    _said("chroot", str(directory), "apt-get", "clean")
    excluded = "".join(f"path-exclude /usr/share/{name}/*\n" for name in _UNREAD)
    # It is made anew rather than mended: no need to wait for the disk.
    (directory / "etc/dpkg/dpkg.cfg.d/container").write_text(f"{excluded}force-unsafe-io\n")
    for place in (
        *(f"usr/share/{name}" for name in _UNREAD),
        "var/lib/apt/lists",
        "var/cache/apt",
        "var/log",
    ):
        for each in (directory / place).iterdir():
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()


@contextmanager
def _mounts() -> Iterator[list[str]]:
    """Options that show a build the machine's toolchain, and how its clients reach their registries."""
    toolchain = _said("rustc", "--print=sysroot")
    mounts = {toolchain: _TOOLCHAIN}
    cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "config.toml"
    if cargo.is_file():
        mounts[str(cargo)] = "/src/.cargo/config.toml"
    authorities = os.environ.get("SSL_CERT_FILE", _AUTHORITIES)
    if Path(authorities).is_file():
        mounts[authorities] = _MOUNTED
    with tempfile.TemporaryDirectory() as directory:
        pip, ours = Path(directory, "pip.conf"), Path(directory, "config.toml")
        pip.write_text(_pip_configuration(authorities in mounts))
        ours.write_text(f'[http]\ncainfo = "{_MOUNTED}"\n' if authorities in mounts else "")
        mounts |= {str(pip): "/etc/pip.conf", str(ours): "/.cargo/config.toml"}
        yield [f"--volume={source}:{place}:ro" for source, place in mounts.items()]


def _pip_configuration(with_authorities: bool) -> str:
    """As much of the machine's, its environment's included, as a build needs."""
    lines = ["[global]", *([f"cert = {_MOUNTED}"] if with_authorities else [])]
    for line in _said(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        if option in _PIP:
            # A list has a line for each.
            lines.append(f"{option} = " + "\n    ".join(str(ast.literal_eval(value)).split()))
    return "\n".join(lines) + "\n"


def _said(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout.strip()
