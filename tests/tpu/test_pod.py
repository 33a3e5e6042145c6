"""pod.sh against a fake gcloud whose workers are folders of this machine."""

import json
import re
import shlex

import pytest

pytestmark = pytest.mark.slow

POD = "tpu/pod.sh"
AWKWARD = ["it's", 'a "b"', "$HOME `date` \\", "two\nlines", "*", ""]
"""Words that come through whole only if every layer quotes them."""
NOTE = "import json, os, sys; json.dump(sys.argv[1:], open(os.path.expanduser('~/said'), 'w'))"
QR = ("gcloud", "compute", "tpus", "queued-resources")
NEW = ("--type", "v6e-16", "--zone", "us-east5-b", "--spot")


def up(world, *more):
    world.run(POD, "create", "one", *NEW, "--every", "0", *more)
    world.run(POD, "setup", "one")


def watch(world, status=0, *more):
    return world.run(POD, "watch", "one", "--every", "0", *more, status=status)


def launch(world, code, *words):
    world.run(POD, "launch", "one", "--", "python", "-c", code, *words)


def once(first):
    """Code that ends with status `first` on its first run on a worker, and well after that."""
    return (
        "import os, sys; path = os.path.expanduser('~/been'); been = os.path.exists(path); open(path, 'w'); "
        f"sys.exit(0 if been else {first})"
    )


def test_from_nothing_to_a_run_that_is_done(world):
    world.tell(after_create="WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE")
    world.run(POD, "create", "one", *NEW, "--every", "0", "--project", "p", "--", "--network", "my net")
    assert world.calls(*QR, "create") == [[
        "one", "--node-id", "one", "--accelerator-type", "v6e-16", "--runtime-version", "v2-alpha-tpuv6e", "--spot",
        "--network", "my net", "--zone", "us-east5-b", "--project", "p",
    ]]  # fmt: skip
    assert len(world.calls(*QR, "describe")) == 4, "whether there is one, then until it is there"
    (world.repo / "more").write_text("x")
    sha = world.commit("second")
    world.run(POD, "setup", "one")
    launch(world, NOTE, *AWKWARD)
    done = watch(world)
    assert "every worker is done" in done.stderr
    for home in sorted((world.fake / "workers").iterdir()):
        assert (home / "jaxllm" / "more").exists()
        head = (home / "jaxllm" / ".git" / "HEAD").read_text().strip()
        assert head == sha, "the worker knows what revision it has"
        assert json.loads((home / "said").read_text()) == AWKWARD
    assert "exit status 0" in world.run(POD, "logs", "one", "--worker", "1").stdout
    assert all(words[-4:] == ["--zone", "us-east5-b", "--project", "p"] for words in world.calls(*QR))
    world.run(POD, "delete", "one")
    assert world.calls(*QR, "delete") == [["one", "--force", "--quiet", "--zone", "us-east5-b", "--project", "p"]]
    assert "give --zone" in world.run(POD, "logs", "one", status=2).stderr, "it is forgotten"
    assert not world.calls("ssh"), "gcloud does the ssh"


def test_a_pod_that_is_preempted_is_requested_again_and_goes_on(world):
    up(world, "--slices", "2", "--", "--network", "my net")
    sha = world.git("rev-parse", "HEAD")
    launch(world, NOTE, *AWKWARD)
    (world.repo / "later").write_text("not to be shipped")
    world.commit("later")
    world.tell(states="SUSPENDED")
    watch(world)
    first, second = world.calls(*QR, "create")
    assert first == second
    assert first[1:5] == ["--node-count", "2", "--node-prefix", "one"]
    assert len(world.calls(*QR, "delete")) == 1
    for home in (world.fake / "workers").iterdir():
        assert (home / "said").exists()
        assert (home / "jaxllm" / ".git" / "HEAD").read_text().strip() == sha, "the revision that was launched"


@pytest.mark.parametrize("status", [1, 143], ids=["crash", "terminated"])
def test_a_command_that_ends_early_is_started_again(world, status):
    up(world)
    launch(world, once(status))
    done = watch(world)
    assert re.search(rf"one: [12] exit {status}\b", done.stderr), "the other may still be running"
    assert "(1 of 20)" in done.stderr
    assert len(world.calls(*QR, "create")) == 1


def test_what_never_goes_well_is_given_up(world):
    up(world)
    launch(world, "raise SystemExit(1)")
    done = watch(world, 1, "--restarts", "2")
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"error: watch: stopped after 2 restarts; the last: (2 exit 1|1 exit 1 1 running)", last)


def test_bad_input_is_not_tried_again(world):
    up(world)
    launch(world, "import sys; print('error: --mesh data=3 wants 3 devices'); sys.exit(2)")
    done = watch(world, 2)
    assert "wants 3 devices" in done.stdout
    assert "input is bad" in done.stderr
    assert len([c for c in world.calls(*QR, "ssh") if "start" in " ".join(c)]) == 1


def test_a_machine_that_comes_back_empty_is_set_up_again(world):
    up(world)
    launch(world, NOTE)
    empty = world.fake / "workers" / "1"
    empty.rename(world.fake / "replaced")  # not deleted: its program may still be writing there
    empty.mkdir()
    watch(world)
    assert (empty / "said").exists()


def test_watch_bears_some_silence_and_not_more(world):
    up(world)
    launch(world, NOTE)
    world.tell(fail="describe\nssh")
    watch(world)
    world.tell(fail="describe\n" * 10)
    assert "did not answer 10 times" in watch(world, 1).stderr


def test_watch_may_delete_at_the_end(world):
    up(world)
    launch(world, NOTE)
    watch(world, 0, "--delete")
    assert len(world.calls(*QR, "delete")) == 1


def test_what_fails_is_not_taken_for_done(world):
    world.tell(fail="create")
    world.run(POD, "create", "one", *NEW, status=1)
    assert not (world.root / "home/.config/jaxllm/pods/one").exists()
    world.tell(after_create="WAITING_FOR_RESOURCES\nFAILED")
    done = world.run(POD, "create", "one", *NEW, "--every", "0", status=1)
    assert "one is FAILED" in done.stderr
    assert "there is a one already, FAILED" in world.run(POD, "create", "one", *NEW, status=2).stderr
    world.run(POD, "delete", "one")
    world.tell(after_create="ACTIVE", fail="uv pip install")
    world.run(POD, "create", "one", *NEW)
    world.run(POD, "setup", "one", status=1)
    assert not (world.root / "home/.config/jaxllm/pods/one/revision").exists()


def test_a_second_command_is_refused_while_one_runs(world):
    up(world)
    launch(world, "import time; time.sleep(60)")
    done = world.run(POD, "launch", "one", "--", "python", status=None)
    assert done.returncode != 0
    assert "running here already" in done.stderr
    world.run("bash", world.fake / "workers/0/jaxllm/tpu/worker.sh", "stop", HOME=str(world.fake / "workers/0"))
    world.run("bash", world.fake / "workers/1/jaxllm/tpu/worker.sh", "stop", HOME=str(world.fake / "workers/1"))


def test_dry_run_prints_every_command_and_runs_none(world):
    flags = ("--dry-run", "--zone", "z")
    told = [
        world.run(POD, *words).stdout
        for words in (
            ("create", "one", "--type", "v5p-8", *flags, "--", "--network", "my net"),
            ("setup", "one", *flags),
            ("launch", "one", *flags, "--", "python", "x.py", *AWKWARD),
            ("watch", "one", "--type", "v5p-8", "--runtime", "r", *flags, "--", "python", "x.py"),
            ("logs", "one", "--follow", *flags),
            ("delete", "one", *flags),
        )
    ]
    assert not world.log
    assert not (world.root / "home/.config").exists()
    create, setup, start, watching, logs, delete = (shlex.split(text, comments=True) for text in told)
    assert create[:6] == [*QR, "create", "one"]
    assert create[create.index("--network") + 1] == "my net"
    assert "v2-alpha-tpuv5" in create
    assert [setup[0], "push" in setup, "bundle" in setup, "scp" in setup] == ["git", True, True, True]
    (command,) = (w.removeprefix("--command=") for w in start if w.startswith("--command="))
    assert shlex.split(command) == ["bash", "jaxllm/tpu/worker.sh", "start", "python", "x.py", *AWKWARD]
    counted = {verb: watching.count(verb) for verb in ("describe", "delete", "scp", "--accelerator-type")}
    assert counted == {"describe": 3, "delete": 1, "scp": 1, "--accelerator-type": 1}
    assert "--command=bash jaxllm/tpu/worker.sh log 50 -f" in logs
    assert delete[4:] == ["delete", "one", "--force", "--quiet", "--zone", "z"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "tpu/pod.sh create NAME"), (("make", "one"), "there is no 'make'"), (("create",), "give the pod's name"),
        (("create", "One"), "not 'One'"), (("create", "one", "--zone", "z"), "give --type"),
        (("create", "one", "--type", "v5p-8"), "give --zone"), (("create", "one", "--type"), "--type wants a value"),
        (("create", "one", "--type", "h100", "--zone", "z"), "give --runtime"),
        (("create", "one", "--type", "v5p-8", "--zone", "z", "--slices", "two"), "--slices two: give a number"),
        (("create", "one", "--speed", "9"), "no flag --speed"), (("launch", "one", "python"), "goes after --"),
        (("launch", "one", "--zone", "z"), "give the command after --"),
        (("watch", "one", "--zone", "z"), "was not created from here"), (("setup", "one"), "give --zone"),
        (("setup", "one", "--zone", "z", "--revision", "v9"), "there is no revision 'v9'"),
        (("watch", "one", "--every", "soon"), "--every soon: give a number"),
    ],
    ids=lambda x: " ".join(x)[:30] if isinstance(x, tuple) else "",
)  # fmt: skip
def test_bad_input(world, words, message):
    done = world.run(POD, *words, status=2)
    assert message in done.stderr
    assert not words or len(done.stderr.splitlines()) == 1
    assert not world.log


def test_uncommitted_changes_are_not_shipped_unawares(world):
    (world.repo / "new").write_text("x")
    assert "not committed" in world.run(POD, "setup", "one", "--zone", "z", status=2).stderr
    world.run(POD, "setup", "one", "--zone", "z", "--revision", "HEAD")


def test_without_gcloud_it_says_so(world):
    done = world.run(POD, "delete", "one", "--zone", "z", status=2, PATH=world.bare_path)
    assert "gcloud is not on the PATH" in done.stderr
