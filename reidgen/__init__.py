"""The benchmark for person re-identification on cameras nobody trained on."""

import os

__version__ = "0.1.0"

# Before torch is loaded, which reads them once. Threads that wait without spinning: on two cores shared with other work a
# training step took 0.5 s, not 1.9 s. What Apple's GPU cannot do runs on the CPU.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
