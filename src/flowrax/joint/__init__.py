"""Events of several parts, continuous and categorical, under one network."""

from .loss import IndependentTimes as IndependentTimes, JointMatching as JointMatching
from .model import JointModel as JointModel, JointSampler as JointSampler, SharedNetwork as SharedNetwork
