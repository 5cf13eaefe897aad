from .given_scenes import draw_scenes as draw_scenes
from .joint import JointEmbeddings as JointEmbeddings
from .subject import simulate_subject as simulate_subject
from .subjects import simulate_subjects as simulate_subjects
from .truth import SessionDrift as SessionDrift
from .truth import SimulatedTruth as SimulatedTruth
