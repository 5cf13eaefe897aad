"""LatentEncoder, for its page."""

import matplotlib.pyplot as plt
from nets import GIVEN, LATENT, TRAINED, draw_net

schematic = plt.figure(figsize=(9.6, 2.7), layout="constrained")
draw_net(
    schematic.subplots(),
    "two kinds of maps to a latent, and ridge; blended voxel by voxel",
    2.6,
    {
        "tokens": (0.8, 1.25, "tokens or\npooled features", GIVEN),
        "ridge": (5.0, 2.0, "ridge", TRAINED),
        "mapper": (2.95, 0.55, "Gaussian kernel,\n5 small\ntransformers", TRAINED),
        "z": (5.0, 0.55, "128 latents", LATENT),
        "read": (7.0, 0.55, "read-out:\ncomponents,\nnoise put back", GIVEN),
        "blend": (7.9, 2.0, "blend\nchosen on\nheld-out images", TRAINED),
        "out": (9.75, 2.0, "expected\nresponse", GIVEN),
        "draws": (9.4, 0.55, "draws: + shared noise,\nits variance\nfrom the tokens", GIVEN),
    },
    [
        ("tokens", "ridge", ""),
        ("tokens", "mapper", ""),
        ("mapper", "z", ""),
        ("z", "read", ""),
        ("ridge", "blend", ""),
        ("read", "blend", ""),
        ("blend", "out", ""),
        ("out", "draws", ""),
    ],
)
