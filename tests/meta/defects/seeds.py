"""All seeded defects."""

from defects.backends import BACKENDS
from defects.baselines import BASELINES
from defects.cluster import CLUSTER
from defects.gates import GATES
from defects.judgements import JUDGEMENTS
from defects.page import PAGE
from defects.pictures import PICTURES
from defects.reports import REPORTS
from defects.structure import STRUCTURE
from defects.training import TRAINING
from defects.visualization import VISUALIZATION

DEFECTS = (
    *STRUCTURE,
    *PICTURES,
    *TRAINING,
    *REPORTS,
    *BASELINES,
    *GATES,
    *JUDGEMENTS,
    *PAGE,
    *CLUSTER,
    *BACKENDS,
    *VISUALIZATION,
)
