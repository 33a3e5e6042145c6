"""The small models of every family that experiments/checks has, for tests."""

from checks.families import DECODERS, ENCODERS, LABELS, VOCAB, family, still

__all__ = ["DECODERS", "ENCODERS", "LABELS", "VOCAB", "family", "still"]
