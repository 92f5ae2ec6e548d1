"""The benchmark for person re-identification on cameras nobody trained on."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("reidgen")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0.1.0"
