"""Single steps of DDPM, VDM and flow matching, as their papers write them."""

from .cfm import CFM as CFM
from .ddpm import DDPM as DDPM
from .vdm import VDM as VDM
