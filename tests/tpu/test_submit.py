"""submit.py: the YAML it renders, the script inside it, and what it hands to kubectl and sky."""

import json
import subprocess
import sys

import pytest
import yaml

SUBMIT = (sys.executable, "tpu/submit.py")
TPU = ("jobset", "--name", "one", "--tpu", "tpu-v5-lite-podslice:4x4:4")
GPU = ("jobset", "--name", "one", "--gpus", "8", "--hosts", "4")
SKY = ("sky", "--name", "one", "--accelerators", "H100:8", "--nodes", "4")
AWKWARD = ["it's", 'a "b"', "$(date) `date` \\ é", "two\nlines", "#: {}", ""]


@pytest.fixture
def pushed(world):
    """The repository with a remote that has its only commit."""
    world.git("init", "--quiet", "--bare", str(world.root / "origin.git"))
    world.git("remote", "add", "origin", str(world.root / "origin.git"))
    world.git("push", "--quiet", "origin", "main")
    return world


def rendered(world, kind, *more, command=("python", "x.py")):
    done = world.run(*SUBMIT, *kind, *more, "--dry-run", "--", *command)
    assert not world.log
    return yaml.safe_load(done.stdout)


def pod(found):
    (one,) = found["spec"]["replicatedJobs"]
    job = one["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    return one, job, container


def test_a_jobset_for_tpu_slices(pushed):
    found = rendered(pushed, TPU, "--slices", "2")
    one, job, container = pod(found)
    assert (one["replicas"], job["completions"], job["parallelism"]) == (2, 4, 4)
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert job["template"]["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice", "cloud.google.com/gke-tpu-topology": "4x4",
    }  # fmt: skip
    assert "JAXLLM_COORDINATOR" not in container["command"][-1], "a TPU's processes find each other"
    assert "'.[tpu]'" in container["command"][-1]


def test_what_is_done_about_failures(pushed):
    found = rendered(pushed, TPU, "--restarts", "7", "--grace", "60")
    _, job, _ = pod(found)
    assert found["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] == 60
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    found = rendered(pushed, SKY, "--restarts", "7", "--spot")["resources"]
    assert found["job_recovery"] == {"max_restarts_on_errors": 7, "recover_on_exit_codes": [143]}
    assert found["use_spot"] is True


def as_kubernetes_reads(text):
    """$(NAME) of an unknown variable stays; $$(NAME) becomes $(NAME)."""
    assert "$(" not in text.replace("$$(", ""), "nothing is left for Kubernetes to expand"
    return text.replace("$$(", "$(")


def test_the_script_in_the_pod_runs_the_command_as_it_was_given(pushed):
    code = "import json, os, sys; print(json.dumps([sys.argv[1:], [os.environ[f'JAXLLM_{n}'] for n in "
    code += "('COORDINATOR', 'PROCESSES', 'PROCESS_ID')]]))"
    found = rendered(pushed, GPU, "--env", "A=it's $(B)", command=("python", "-c", code, *AWKWARD))
    _, job, container = pod(found)
    assert (job["completions"], container["resources"]["limits"]) == (4, {"nvidia.com/gpu": 8})
    assert container["env"] == [{"name": "A", "value": "it's $$(B)"}]
    script = as_kubernetes_reads(container["command"][-1])
    lines = [line for line in script.split("\n") if "pip install" not in line]
    assert len(lines) == len(script.split("\n")) - 1
    python = pushed.root / "bin" / "python"
    python.symlink_to(sys.executable)
    folder = pushed.root / "pod"
    folder.mkdir()
    done = subprocess.run(
        [*container["command"][:-1], "\n".join(lines)], cwd=folder, capture_output=True, text=True, check=True,
        env={**pushed.env, "JOB_COMPLETION_INDEX": "3"},
    )  # fmt: skip
    assert json.loads(done.stdout) == [AWKWARD, ["one-slice-0-0.one:8476", "4", "3"]]
    assert (folder / "jaxllm" / "tpu" / "worker.sh").exists()


def test_the_task_for_sky_installs_and_runs_the_command(pushed):
    code = "import json, os, sys; print(json.dumps([sys.argv[1:], [os.environ[f'JAXLLM_{n}'] for n in "
    code += "('COORDINATOR', 'PROCESSES', 'PROCESS_ID')]]))"
    found = rendered(pushed, SKY, "--env", "A=b", command=("python", "-c", code, *AWKWARD))
    assert (found["num_nodes"], found["envs"], found["resources"]["accelerators"]) == (4, {"A": "b"}, "H100:8")
    home = pushed.fake / "workers" / "0"
    told = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    for part in ("setup", "run"):
        done = subprocess.run(
            ["bash", "-c", found[part]], cwd=home, capture_output=True, text=True, check=True,
            env={**pushed.env, **told, "HOME": str(home)},
        )  # fmt: skip
    assert json.loads(done.stdout) == [AWKWARD, ["10.0.0.1:8476", "2", "1"]]
    assert pushed.calls("uv", "pip", "install")[0][-1].endswith("jaxllm[cuda]")


def test_a_script_stops_at_what_fails(pushed):
    found = rendered(pushed, SKY, "--repo", "/nowhere")
    done = subprocess.run(
        ["bash", "-c", found["setup"]], cwd=pushed.root, capture_output=True, env=pushed.env, check=False
    )
    assert done.returncode != 0
    assert not pushed.calls("uv")


def test_a_tpu_on_sky_is_not_told(pushed):
    found = rendered(pushed, ("sky", "--name", "one", "--accelerators", "tpu-v5litepod-16"))
    assert "JAXLLM_COORDINATOR" not in found["run"]
    assert "JAXLLM_EXTRA=tpu" in found["setup"]


@pytest.mark.parametrize(
    ("kind", "start"), [(GPU, ["kubectl", "apply", "--filename"]), (SKY, ["sky", "jobs", "launch"])]
)
def test_it_is_submitted(pushed, kind, start):
    pushed.run(*SUBMIT, *kind, "--", "python", "x.py")
    (words,) = pushed.log
    assert words[:3] == start
    assert words[-1].endswith("one.yaml")
    sent = yaml.safe_load((pushed.fake / "submitted.yaml").read_text())
    assert pushed.git("rev-parse", "HEAD") in json.dumps(sent)
    pushed.tell(fail=start[0])
    pushed.run(*SUBMIT, *kind, "--", "python", "x.py", status=1)
    assert "is not on the PATH" in pushed.run(*SUBMIT, *kind, "--", "x", status=2, PATH=pushed.bare_path).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*GPU, "--dry-run"), "give the command after --"), (("jobset", "--name", "one", "--", "x"), "give --tpu"),
        ((*TPU, "--gpus", "8", "--", "x"), "give --tpu"), ((*GPU, "--slices", "2", "--", "x"), "--slices is for --tpu"),
        (("jobset", "--name", "one", "--tpu", "v5e", "--", "x"), "TYPE:TOPOLOGY:CHIPS_PER_HOST"),
        (("jobset", "--name", "one", "--tpu", "t:2x3:4", "--", "x"), "6 chips do not divide into hosts of 4"),
        (("jobset", "--name", "One", "--gpus", "1", "--", "x"), "--name One"),
        ((*GPU, "--env", "A", "--", "x"), "--env A: give NAME=VALUE"),
        ((*GPU, "--revision", "v9", "--", "x"), "rev-parse"), ((*GPU, "--hosts", "0", "--", "x"), "no number from 1"),
    ],
)  # fmt: skip
def test_bad_input(pushed, words, message):
    done = pushed.run(*SUBMIT, *words, status=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not pushed.log


def test_what_was_not_pushed_cannot_be_fetched(pushed):
    (pushed.repo / "new").write_text("x")
    pushed.commit("second")
    assert "push it" in pushed.run(*SUBMIT, *GPU, "--", "x", status=2).stderr
    assert pushed.run(*SUBMIT, *GPU, "--revision", "HEAD~1", "--dry-run", "--", "x").stdout
