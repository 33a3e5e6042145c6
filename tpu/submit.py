#!/usr/bin/env python3
"""Renders jobset.yaml or sky.yaml for a command and hands it to kubectl or sky.

    python tpu/submit.py jobset --name first --tpu tpu-v5-lite-podslice:4x4:4 -- python experiments/pretrain.py ...
    python tpu/submit.py jobset --name first --gpus 8 --hosts 4 -- python experiments/pretrain.py ...
    python tpu/submit.py sky --name first --accelerators H100:8 --nodes 4 --spot -- python experiments/pretrain.py ...

With --dry-run it prints the file and the command that would be run. The code is a git revision, fetched from the
repository where the work is done, so it must have been pushed. Standard library alone: nothing need be installed here.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import string
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import plan

HERE = Path(__file__).parent
PORT = 8476
"""Of the coordinator, where the environment does not tell."""


class BadInput(Exception):
    """One line that names the thing and the remedy."""


def shell(*words: str) -> str:
    """The words as one line that a shell reads back."""
    return " ".join(map(shlex.quote, words))


def git(*words: str) -> str:
    """What git says of this repository. Raises BadInput where it fails."""
    done = subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadInput(f"git {' '.join(words)}: {done.stderr.strip() or 'nothing found'}")
    return done.stdout.strip()


def source(args: argparse.Namespace) -> tuple[str, str]:
    """Where to fetch the code, and the revision. Raises BadInput for one that is not there to be fetched."""
    sha = git("rev-parse", "--verify", "--quiet", f"{args.revision}^{{commit}}")
    if args.repo:
        return args.repo, sha
    if not git("for-each-ref", "--contains", sha, "refs/remotes"):
        raise BadInput(f"revision {sha[:12]} is in no branch of a remote: push it, or give --repo")
    return git("remote", "get-url", "origin"), sha


def checkout(repo: str, sha: str) -> str:
    """Shell lines that end in the code, in the folder jaxllm."""
    fetch = shell("git", "fetch", "--quiet", "--depth", "1", repo, sha)
    return f"set -e\ngit init --quiet jaxllm\ncd jaxllm\n{fetch}\ngit checkout --quiet --force --detach {sha}\n"


def variables(pairs: list[str]) -> dict[str, str]:
    """["A=1"] as a dictionary. Raises BadInput."""
    for pair in pairs:
        if not re.match(r"[A-Za-z_]\w*=", pair):
            raise BadInput(f"--env {pair}: give NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def render(template: str, **values: Any) -> str:
    """The template with every $NAME as JSON, which is YAML too."""
    filled = {name: json.dumps(x, ensure_ascii=False) for name, x in values.items()}
    return string.Template((HERE / template).read_text()).substitute(filled)


def jobset(args: argparse.Namespace) -> str:
    """The JobSet: TPU slices, whose processes find each other by themselves, or GPU hosts, which are told."""
    if bool(args.tpu) == bool(args.gpus):
        raise BadInput("jobset: give --tpu TYPE:TOPOLOGY:CHIPS_PER_HOST, or --gpus N and --hosts N")
    extra, hosts, told = "cuda", args.hosts, ""
    selector, annotations = {}, {}
    if args.tpu:
        found = re.fullmatch(r"([a-z0-9-]+):(\d+(?:x\d+){1,2}):([1-9]\d*)", args.tpu)
        if not found:
            raise BadInput(f"--tpu {args.tpu}: give TYPE:TOPOLOGY:CHIPS_PER_HOST, as tpu-v5-lite-podslice:4x4:4")
        extra, chips, per_host = "tpu", math.prod(map(int, found[2].split("x"))), int(found[3])
        if chips % per_host:
            raise BadInput(f"--tpu {args.tpu}: {chips} chips do not divide into hosts of {per_host}")
        hosts = chips // per_host
        selector = {
            "cloud.google.com/gke-tpu-accelerator": found[1], "cloud.google.com/gke-tpu-topology": found[2],
        }  # fmt: skip
        annotations = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
        limits = {"google.com/tpu": per_host}
    else:
        if args.slices != 1:
            raise BadInput("--slices is for --tpu; GPU hosts are one group: give --hosts")
        if args.gpu_type:
            selector = {"cloud.google.com/gke-accelerator": args.gpu_type}
        limits = {"nvidia.com/gpu": args.gpus}
        told = (
            f"export JAXLLM_COORDINATOR={args.name}-slice-0-0.{args.name}:{PORT} JAXLLM_PROCESSES={hosts} "
            'JAXLLM_PROCESS_ID="$JOB_COMPLETION_INDEX"\n'
        )
    install = f"python -m pip install --quiet --root-user-action ignore --editable '.[{extra}]'\n"
    script = checkout(*source(args)) + install + told + f"exec {shell(*args.command)}\n"
    literal = lambda text: text.replace("$(", "$$(")  # noqa: E731  (Kubernetes would expand it)
    env = [{"name": name, "value": literal(x)} for name, x in variables(args.env).items()]
    return render(
        "jobset.yaml", NAME=args.name, ANNOTATIONS=annotations, RESTARTS=args.restarts, SLICES=args.slices,
        HOSTS=hosts, GRACE=args.grace, SELECTOR=selector, IMAGE=args.image, ENV=env, SCRIPT=literal(script),
        LIMITS=limits,
    )  # fmt: skip


def sky(args: argparse.Namespace) -> str:
    """The SkyPilot task. A TPU's processes find each other by themselves; others are told."""
    on_tpu = args.accelerators.lower().startswith("tpu-")
    setup = checkout(*source(args)) + f"JAXLLM_EXTRA={'tpu' if on_tpu else 'cuda'} bash tpu/worker.sh setup\n"
    told = "" if on_tpu else (
        f'export JAXLLM_COORDINATOR="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORT}" '
        'JAXLLM_PROCESSES="$SKYPILOT_NUM_NODES" JAXLLM_PROCESS_ID="$SKYPILOT_NODE_RANK"\n'
    )  # fmt: skip
    script = f'set -e\ncd jaxllm\nexport PATH="$HOME/jaxllm-venv/bin:$PATH"\n{told}exec {shell(*args.command)}\n'
    return render(
        "sky.yaml", NAME=args.name, ACCELERATORS=args.accelerators, SPOT=args.spot, RESTARTS=args.restarts,
        NODES=args.nodes, ENV=variables(args.env), SETUP=setup, SCRIPT=script,
    )  # fmt: skip


def hardware(args: argparse.Namespace) -> str:
    """What it is launched on, as `python -m jaxllm plan` names it; "" where that is not known."""
    if args.kind == "sky":
        kind, _, count = args.accelerators.partition(":")
        if kind.lower().startswith("tpu-"):
            return plan.topology(kind.lower().removeprefix("tpu-"))
        return f"{plan.gpu(kind)}:1x{args.nodes}x{count or 1}" if plan.gpu(kind) else ""
    if args.tpu:
        kind, sides, _ = args.tpu.split(":")
        name = {"tpu-v5-lite-podslice": "v5e", "tpu-v4-podslice": "v4", "tpu-v5p-slice": "v5p", "tpu-v6e-slice": "v6e",
                "tpu7x": "v7x"}.get(kind)  # fmt: skip
        return plan.topology(f"{name}:{sides}*{args.slices}") if name else ""
    return f"{plan.gpu(args.gpu_type)}:1x{args.hosts}x{args.gpus}" if plan.gpu(args.gpu_type) else ""


def positive(text: str) -> int:
    """The value of a flag that counts something."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1")
    return int(text)


def parse(argv: list[str]) -> argparse.Namespace:
    """The flags, and what stands after -- as the command."""
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser("submit.py", description=(__doc__ or "").split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("jobset", "sky"):
        one = kinds.add_parser(kind)
        one.add_argument("--name", required=True, help="of the job: small letters, digits, dashes")
        one.add_argument("--revision", default="HEAD", help="what to run")
        one.add_argument("--repo", default="", help="where to fetch it; by default the remote `origin`")
        one.add_argument("--restarts", type=positive, default=20, help="after failures that are no preemption")
        one.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
        one.add_argument("--dry-run", action="store_true", help="print the file and the command, run nothing")
    one = kinds.choices["jobset"]
    one.add_argument("--tpu", default="", help="TYPE:TOPOLOGY:CHIPS_PER_HOST, as tpu-v5-lite-podslice:4x4:4")
    one.add_argument("--slices", type=positive, default=1)
    one.add_argument("--gpus", type=positive, help="in a host")
    one.add_argument("--gpu-type", default="", help="node label cloud.google.com/gke-accelerator")
    one.add_argument("--hosts", type=positive, default=1)
    one.add_argument("--image", default="python:3.12", help="has git and Python")
    one.add_argument("--grace", type=positive, default=300, help="seconds from SIGTERM to SIGKILL")
    one = kinds.choices["sky"]
    one.add_argument("--accelerators", required=True, help="of a node, as H100:8 or tpu-v5litepod-16")
    one.add_argument("--nodes", type=positive, default=1)
    one.add_argument("--spot", action="store_true")
    args = parser.parse_args(argv[:at])
    args.command = argv[at + 1 :]
    if not args.command:
        raise BadInput("give the command after --, such as -- python experiments/pretrain.py")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", args.name):
        raise BadInput(f"--name {args.name}: up to 40 small letters, digits and dashes, the first a letter")
    return args


def main(argv: list[str]) -> int:
    """Renders and submits, or prints; the exit status."""
    args = parse(argv)
    text = {"jobset": jobset, "sky": sky}[args.kind](args)
    launch = {
        "jobset": ["kubectl", "apply", "--filename"],
        "sky": ["sky", "jobs", "launch", "--yes", "--detach-run"],
    }[args.kind]
    if args.dry_run:
        print(f"{text}# {shell(*launch, args.name + '.yaml')}")
        print(f"# {plan.line(hardware(args), args.command)}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, args.name + ".yaml")
        path.write_text(text)
        try:
            return subprocess.run([*launch, str(path)], check=False).returncode
        except FileNotFoundError:
            raise BadInput(f"{launch[0]} is not on the PATH: install it, or see --dry-run") from None


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
