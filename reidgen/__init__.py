"""The benchmark for person re-identification on cameras nobody trained on."""

__version__ = "0.1.0"
