"""Networks: `SNR` is a module that anyone can put after any convolution block of any network."""

from reidgen.models.network import ReIDNet, build_network
from reidgen.models.norms import SNR

__all__ = ["SNR", "ReIDNet", "build_network"]
