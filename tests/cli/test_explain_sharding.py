"""What explain-sharding prints, for devices that are not there."""

import pytest

from jaxllm.cli.explain_sharding import Config, main
from jaxllm.types import InputError


def test_every_parameter_with_what_a_device_holds(capsys):
    main(Config("tiny", "fsdp=32,tensor=2"))
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.startswith("blocks.mlp.up.kernel"))
    assert f"{2 * 64 * 160 * 4 // 64:,} bytes" in line
    assert "on 64 devices" in out
    assert "1.00 times an even share" in out
    assert "not cut over" not in out


def test_what_an_axis_does_not_cut_is_named(capsys):
    main(Config("tiny", "fsdp=2,expert=2"))
    out = capsys.readouterr().out
    assert "2.00 times an even share" in out


def test_bad_input():
    with pytest.raises(InputError, match="wants 3 devices, there are 8"):
        main(Config("tiny", "fsdp=3", 8))
    with pytest.raises(InputError, match="tensor could be 1, 2"):
        main(Config("tiny", "tensor=7"))
