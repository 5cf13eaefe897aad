from .simulated import SimulatedTruth as SimulatedTruth
from .simulated import simulate_subject as simulate_subject
