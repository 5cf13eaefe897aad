from .nsd import convert_nsd as convert_nsd
from .nsd import load_nsd as load_nsd
from .nsd import shared_test_mask as shared_test_mask
from .simulated import SimulatedTruth as SimulatedTruth
from .simulated import simulate_subject as simulate_subject
