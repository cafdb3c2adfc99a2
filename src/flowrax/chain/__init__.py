"""Kernels: one step of a chain at a time, as the literature writes them; the verbs take the same steps."""

from .cfm import CFM as CFM
from .d3pm import D3PM as D3PM
from .ddpm import DDPM as DDPM
from .vdm import VDM as VDM
