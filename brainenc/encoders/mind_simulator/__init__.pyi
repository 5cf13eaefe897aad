from .encoder import MindSimulatorEncoder as MindSimulatorEncoder
