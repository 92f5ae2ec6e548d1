"""How a run breaks: controlled shifts of style, universal perturbations."""
