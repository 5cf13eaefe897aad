from .subject import simulate_subject as simulate_subject
from .truth import SessionDrift as SessionDrift
from .truth import SimulatedTruth as SimulatedTruth
