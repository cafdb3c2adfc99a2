"""Chains: single sampling steps as the literature writes them; `sample` takes the same steps."""

from .cfm import CFM as CFM
from .d3pm import D3PM as D3PM
from .ddpm import DDPM as DDPM
from .vdm import VDM as VDM
