"""Events of several parts, continuous and categorical, under one network."""

from .loss import Apart as Apart, JointMatching as JointMatching
from .model import JointModel as JointModel, JointMoves as JointMoves, Slot as Slot
