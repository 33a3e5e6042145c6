"""Fake commands on the PATH, and a repository whose code is to be shipped."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TPU = Path(__file__).parents[2] / "tpu"
COMMANDS = ("gcloud", "srun", "sbatch", "scontrol", "kubectl", "sky", "ssh", "python3", "uv")


@dataclasses.dataclass
class World:
    """A machine on which the commands are fake."""

    root: Path
    env: dict[str, str]

    @property
    def fake(self) -> Path:
        return self.root / "fake"

    @property
    def repo(self) -> Path:
        return self.root / "repo"

    @property
    def bare_path(self) -> str:
        """A PATH without any of the commands that are fake."""
        few = self.root / "few"
        few.mkdir(exist_ok=True)
        for name in ("bash", "env", "git", "sed", "date", "dirname"):
            if not (few / name).exists():
                (few / name).symlink_to(shutil.which(name) or "")
        return str(few)

    def tell(self, **files: str) -> None:
        for name, text in files.items():
            (self.fake / name.replace("_", "-")).write_text(text)

    @property
    def log(self) -> list[list[str]]:
        """The words of every call of a fake."""
        path = self.fake / "log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def calls(self, *start: str) -> list[list[str]]:
        """The calls that begin so, without that beginning."""
        return [words[len(start) :] for words in self.log if words[: len(start)] == list(start)]

    def run(self, *words: str | Path, status: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            list(map(str, words)), cwd=self.repo, env={**self.env, **env}, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert status is None or done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def git(self, *words: str) -> str:
        return self.run("git", *words).stdout.strip()

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two workers, no pod, a repository with tpu/ in it and all committed."""
    bin_, fake = tmp_path / "bin", tmp_path / "fake"
    bin_.mkdir()
    for i in range(2):
        (fake / "workers" / str(i)).mkdir(parents=True)
    script = bin_ / "fake.py"
    script.write_text(f"#!{sys.executable}\n" + Path(__file__).with_name("fake.py").read_text())
    script.chmod(0o755)
    for name in COMMANDS:
        (bin_ / name).symlink_to(script)
    (tmp_path / "home").mkdir()
    env = {
        "PATH": f"{bin_}:{os.environ['PATH']}", "HOME": str(tmp_path / "home"), "FAKE": str(fake),
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
        "GIT_CONFIG_NOSYSTEM": "1",
    }  # fmt: skip
    made = World(tmp_path, env)
    made.repo.mkdir()
    shutil.copytree(TPU, made.repo / "tpu")
    made.git("init", "--quiet", "--initial-branch", "main")
    made.commit("first")
    made.tell(after_create="ACTIVE")
    return made
