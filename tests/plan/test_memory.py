"""Buffers that are alive together, in programs small enough to count by hand."""

from jaxllm.plan.hlo import parse
from jaxllm.plan.memory import Liveness

HEAD = "HloModule m, is_scheduled=true\n\n"
MIB = 2**20


def peak(text):
    total, alive = Liveness(parse(HEAD + text)).peak()
    return total, sorted(x.name for _, x, _ in alive)


def test_results_live_until_their_last_use():
    text = """ENTRY %main (x: f32[256,1024]) -> f32[256,1024] {
  %x = f32[256,1024]{1,0} parameter(0)
  %a = f32[256,1024]{1,0} sine(%x)
  %b = f32[256,1024]{1,0} cosine(%a)
  %view = f32[1024,256]{1,0} bitcast(%b)
  %back = f32[256,1024]{1,0} bitcast(%view)
  ROOT %c = f32[256,1024]{1,0} add(%back, %x)
}
"""
    assert peak(text) == (2 * MIB, ["a", "b"])


def test_a_loop_holds_its_carry_once_and_its_body_beside_it():
    text = """%body (p: (s32[], f32[4,256,1024], f32[256,1024])) -> (s32[], f32[4,256,1024], f32[256,1024]) {
  %p = (s32[], f32[4,256,1024]{2,1,0}, f32[256,1024]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %saved = f32[4,256,1024]{2,1,0} get-tuple-element(%p), index=1
  %x = f32[256,1024]{1,0} get-tuple-element(%p), index=2
  %y = f32[256,1024]{1,0} sine(%x)
  %one = s32[] constant(1)
  %zero = s32[] constant(0)
  %row = f32[1,256,1024]{2,1,0} bitcast(%x)
  %kept = f32[4,256,1024]{2,1,0} dynamic-update-slice(%saved, %row, %i, %zero, %zero)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], f32[4,256,1024]{2,1,0}, f32[256,1024]{1,0}) tuple(%next, %kept, %y)
}

%cond (q: (s32[], f32[4,256,1024], f32[256,1024])) -> pred[] {
  %q = (s32[], f32[4,256,1024]{2,1,0}, f32[256,1024]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %n = s32[] constant(4)
  ROOT %less = pred[] compare(%j, %n), direction=LT
}

ENTRY %main (x: f32[256,1024]) -> f32[4,256,1024] {
  %x0 = f32[256,1024]{1,0} parameter(0)
  %start = s32[] constant(0)
  %empty = f32[] constant(0)
  %stack = f32[4,256,1024]{2,1,0} broadcast(%empty), dimensions={}
  %init = (s32[], f32[4,256,1024]{2,1,0}, f32[256,1024]{1,0}) tuple(%start, %stack, %x0)
  %loop = (s32[], f32[4,256,1024]{2,1,0}, f32[256,1024]{1,0}) while(%init), condition=%cond, body=%body
  ROOT %result = f32[4,256,1024]{2,1,0} get-tuple-element(%loop), index=1
}
"""
    total, names = peak(text)
    assert {"stack", "y"} <= set(names)
    assert total - 5 * MIB <= 8, "the saved rows, updated in place, and one step's result"
    module = parse(HEAD + text)
    [loop] = [x for _, x, _ in module.walk() if x.opcode == "while"]
    assert module.trips(module.entry, loop) == 4


def test_memory_on_the_chip_is_not_counted():
    text = """ENTRY %main (x: f32[256,1024]) -> f32[256,1024] {
  %x = f32[256,1024]{1,0:T(8,128)} parameter(0)
  %a = f32[256,1024]{1,0:T(8,128)S(1)} sine(%x)
  ROOT %b = f32[256,1024]{1,0:T(8,128)} cosine(%a)
}
"""
    assert peak(text) == (MIB, ["b"])


def test_results_where_donated_arguments_were_take_nothing():
    text = """ENTRY %main (x: f32[256,1024]) -> (f32[256,1024], f32[256,1024]) {
  %x = f32[256,1024]{1,0} parameter(0)
  %a = f32[256,1024]{1,0} sine(%x)
  %b = f32[256,1024]{1,0} cosine(%x)
  ROOT %both = (f32[256,1024]{1,0}, f32[256,1024]{1,0}) tuple(%a, %b)
}
"""
    head = "HloModule m, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }\n\n"
    total, alive = Liveness(parse(head + text)).peak()
    assert (total, [x.name for _, x, _ in alive]) == (MIB, ["b"])
