"""Kernels: one step of a chain at a time, as the literature writes them; the verbs take the same steps."""

from .cfm import CFM as CFM
from .ddpm import DDPM as DDPM
from .vdm import VDM as VDM
