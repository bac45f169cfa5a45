"""All seeded defects."""

from defects.pictures import PICTURES
from defects.reports import REPORTS
from defects.structure import STRUCTURE
from defects.training import TRAINING

DEFECTS = (*STRUCTURE, *PICTURES, *TRAINING, *REPORTS)
