"""A simulated scene as blurs and glimpses change it, for the page on features."""

import matplotlib.pyplot as plt

import brainenc
from brainenc.features import foveal_blur, gaussian_blur
from brainenc.report import styled

image = brainenc.datasets.simulate_subject(4, 10, 1, image_size=256, random_state=3).images[1]
fixations = [[0, 0], [-2, 1], [2, -1]]
windows = brainenc.GlimpseFeatures(brainenc.PixelFeatures(), fixations).windows(image[None])[0]
shown = {
    "image": image,
    "gaussian_blur(0.15)": gaussian_blur(0.15)(image),
    "foveal_blur(0.05)": foveal_blur(0.05)(image),
    'foveal_blur("ubp")': foveal_blur("ubp")(image),
    **{f"glimpse at {x}, {y}": w for (x, y), w in zip(fixations, windows, strict=True)},
}
with styled():
    figure, axes = plt.subplots(1, len(shown), figsize=(9.6, 1.8))
    for panel, (title, picture) in zip(axes, shown.items(), strict=True):
        panel.imshow(picture)
        panel.set_title(title, fontsize=7)
        panel.set_axis_off()
