"""The small models of every family that experiments/checks has, for tests."""

from checks.families import DECODER, DECODERS, ENCODER, ENCODERS, LABELS, OWN, VOCAB, family, still

__all__ = ["DECODER", "DECODERS", "ENCODER", "ENCODERS", "LABELS", "OWN", "VOCAB", "family", "still"]
