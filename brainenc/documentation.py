"""The pages of the documentation that errors name: those that explain the way out."""

#: Page, as a path below ``docs``, to its title.
PAGES = {
    "add_an_encoder": "Add an encoder in one file",
    "brain_maps": "Maps on the brain",
    "cluster": "More than one machine",
    "decoding": "Decoders, and encoders used as decoders",
    "draws": "Draws and their scores",
    "guide/benchmark": "The benchmark",
    "guide/data": "Data",
    "guide/encoders": "Encoders",
    "guide/features": "Features",
    "guide/noise_ceilings": "Noise ceilings",
    "howto_fixed_test": "How to score on a fixed test set",
    "howto_group": "How to compare encoders over subjects",
    "howto_own_data": "Own data to a report",
    "howto_pipeline": "Use scikit-learn: pipelines, searches, scorers",
    "layer_map": "Which layer predicts which area",
    "nsd": "Natural Scenes Dataset",
    "public_data": "Public data sets",
    "selectivity": "What voxels respond to",
    "variance_partitioning": "What each feature space explains",
}


def see(page: str) -> str:
    """End of an error message: the page of the documentation that explains the way out.

    Parameters
    ----------
    page : str
        A key of `PAGES`.

    Returns
    -------
    str
        Begins with a full stop. The title finds the page without a network, too.

    Examples
    --------
    >>> see("howto_own_data")
    '. See "Own data to a report" in the documentation (howto_own_data)'
    """
    return f'. See "{PAGES[page]}" in the documentation ({page})'
