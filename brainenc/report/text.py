"""Numbers and findings in words."""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from brainenc.result_tables import ResultTables

#: Text for undefined values.
UNDEFINED = "–"


def number(value: Any, digits: int = 3) -> str:
    """Fixed decimals with a true minus sign; "–" where undefined."""
    if not is_finite(value):
        return UNDEFINED
    text = f"{value:.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def quantity(value: Any) -> str:
    """Three significant digits, for numbers of any magnitude."""
    if not is_finite(value):
        return UNDEFINED
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 2 if value == 0 else max(0, 2 - int(np.floor(np.log10(abs(value)))))
        return f"{value:,.{digits}f}".replace("-", "−").replace(",", "\u202f")
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def count(value: Any) -> str:
    """Whole number with separated thousands."""
    return f"{int(value):,}".replace(",", "\u202f") if is_finite(value) else UNDEFINED


def percent(value: Any) -> str:
    """A share in percent, without the sign."""
    return number(100 * value, digits=1) if is_finite(value) else UNDEFINED


def interval(low: Any, high: Any, form: Any = number) -> str:
    """Low and high in brackets; empty where undefined."""
    return f"[{form(low)},\u00a0{form(high)}]" if is_finite(low) and is_finite(high) else ""


def p_value(p: Any) -> str:
    """A p-value with its relation, as in p = 0.012 or p < 0.001; "–" where undefined."""
    if not is_finite(p):
        return UNDEFINED
    return "<\u00a00.001" if p < 0.001 else f"=\u00a0{p:.3f}"


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number."""
    try:
        return bool(np.isfinite(value))
    except TypeError:  # None, text
        return False


def plural(n: Any, word: str) -> str:
    """Count and noun."""
    return f"{count(n)} {word}{'' if n == 1 else 's'}"


def joined(names: list[str]) -> str:
    """Names in a sentence, as in: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# -------------------------------------------------------------------- pairs


def ranking(encoders: pd.DataFrame) -> list[str]:
    """Scored encoders, best first: by r; those without r last, by squared error.

    Null controls come after all encoders.
    """
    if controls := controls_of(encoders):
        of_control = encoders["encoder"].isin(controls)
        return ranking(encoders[~of_control].drop(columns="control")) + ranking(
            encoders[of_control].drop(columns="control")
        )
    scored = encoders[encoders["r"].notna() | encoders["mse_z"].notna()]
    ranked = scored.sort_values(["r", "mse_z"], ascending=[False, True], na_position="last")
    return list(ranked["encoder"])


def controls_of(encoders: pd.DataFrame) -> list[str]:
    """Names of the null controls in the encoder table."""
    if "control" not in encoders:
        return []
    kinds = encoders["control"].fillna("").astype(str)
    return [str(name) for name in encoders.loc[kinds != "", "encoder"]]


def oriented(pairs: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """Pairs oriented and sorted so that `encoder_a` is the earlier encoder in `order`."""
    place = {name: i for i, name in enumerate(order)}
    turn = pairs["encoder_a"].map(place) > pairs["encoder_b"].map(place)
    turned = pairs.copy()
    turned.loc[turn, ["encoder_a", "encoder_b"]] = pairs.loc[
        turn, ["encoder_b", "encoder_a"]
    ].to_numpy()
    values = -pairs.loc[turn, ["difference", "high", "low"]].to_numpy()
    turned.loc[turn, ["difference", "low", "high"]] = values
    keys = [turned["encoder_a"].map(place), turned["encoder_b"].map(place)]
    return turned.iloc[np.lexsort((keys[1], keys[0]))]


def find_pair(pairs: pd.DataFrame, a: str, b: str, metric: str) -> Any:
    """Row of `pairs` (all voxels, already oriented); None if there is none."""
    found = pairs[
        (pairs["encoder_a"] == a) & (pairs["encoder_b"] == b) & (pairs["metric"] == metric)
    ]
    return None if found.empty else next(found.itertuples())


# -------------------------------------------------------------------- findings


def classes(result: ResultTables) -> dict[str, str]:
    """Class name of each encoder; its own name if the manifest lacks the class."""
    described = result.manifest.get("settings", {}).get("encoders", {})
    fallback = {"mean": "MeanEncoder", "ridge": "RidgeEncoder"}
    kinds = {
        name: described.get(name, {}).get("class") or fallback.get(name, name)
        for name in result.encoders["encoder"].astype(str)
    }
    return kinds | dict.fromkeys(controls_of(result.encoders), "null control")


def findings(encoders: pd.DataFrame, pairs: pd.DataFrame, kinds: dict[str, str]) -> list[Markup]:
    """Findings in sentences: the best encoder, and whether the difference is significant.

    Parameters
    ----------
    encoders : DataFrame
        ``BenchmarkResult.encoders``.
    pairs : DataFrame
        ``BenchmarkResult.pairs`` over all voxels, oriented by `ranking`.
    kinds : dict of encoder to class name
    """
    encoders = encoders[~encoders["encoder"].isin(controls_of(encoders))]
    order = ranking(encoders)
    rows = encoders.set_index("encoder")
    if not order:
        return [Markup("No encoder could be scored.")]
    if not rows["r"].notna().any():
        return [Markup("No encoder has a defined r: their predictions do not vary over images.")]
    best, rest = order[0], order[1:]
    sentences = [_best_sentence(rows.loc[[best]].iloc[0], best, alone=not rest)]
    ridges = [name for name in rest if kinds.get(name) == "RidgeEncoder"]
    rivals = [name for name in rest if is_finite(rows.loc[name, "r"])][:1] + ridges[:1]
    for rival in dict.fromkeys(rivals):
        sentences.append(_rival_sentence(find_pair(pairs, best, rival, "r"), best, rival))
    means = [name for name in rest if kinds.get(name) == "MeanEncoder"]
    sentences += [_mean_sentence(find_pair(pairs, best, name, "mse_z"), name) for name in means[:1]]
    sentences += _other_winner(rows, best)
    return [sentence for sentence in sentences if sentence]


def _best_sentence(row: pd.Series, name: str, *, alone: bool) -> Markup:
    verb = "reaches" if alone else "predicts best, with"
    r = f"{number(row['r'])} {interval(row['r_low'], row['r_high'])}".strip()
    text = Markup("<strong>{}</strong> {} a mean voxelwise r of <strong>{}</strong>").format(
        name, verb, r
    )
    if is_finite(row["r_low"]) and row["r_low"] <= 0:
        text += ", which may well be chance"
    if not is_finite(row["noise_ceiling"]):
        return text + "; its noise ceiling is unknown."
    text += Markup(", against a mean noise ceiling of {}").format(number(row["noise_ceiling"]))
    if not is_finite(row["r_normalized"]):
        return text + "."
    return text + Markup(": on average {} of the ceiling, in the {} with enough signal.").format(
        f"{number(100 * row['r_normalized'], digits=0)} %",
        plural(row["n_voxels_normalized"], "voxel"),
    )


def _rival_sentence(pair: Any, best: str, rival: str) -> Markup:
    if pair is None or not is_finite(pair.difference):
        return Markup("")
    if not is_finite(pair.low):
        return Markup("Its lead over <strong>{}</strong> ({}) could not be tested.").format(
            rival, number(pair.difference)
        )
    verdict = "a real difference" if pair.low > 0 else "which may well be chance"
    return Markup(
        "Its lead over <strong>{}</strong> is {} {} (paired bootstrap, p {}), {}."
    ).format(
        rival, number(pair.difference), interval(pair.low, pair.high), p_value(pair.p), verdict
    )


def _mean_sentence(pair: Any, name: str) -> Markup:
    if pair is None or not is_finite(pair.difference):
        return Markup("")
    of_mean = Markup("that of the mean response (<strong>{}</strong>)").format(name)
    size = f"{number(abs(pair.difference))} {_unsigned(pair)}"
    if pair.high < 0:
        text = Markup("Its squared error is lower than {} by {}").format(of_mean, size)
    elif pair.low > 0:
        text = Markup("But its squared error is higher than {} by {}").format(of_mean, size)
    else:
        size = f"{number(pair.difference)} {interval(pair.low, pair.high)}"
        text = Markup("Its squared error minus {} is {}, which may well be chance").format(
            of_mean, size.strip()
        )
    return text + Markup(" (z units, p\u00a0{}).").format(p_value(pair.p))


def _unsigned(pair: Any) -> str:
    return interval(*sorted((abs(pair.low), abs(pair.high))))


def _other_winner(rows: pd.DataFrame, best: str) -> list[Markup]:
    errors = rows["mse_z"].dropna()
    if best not in errors or errors.idxmin() == best:
        return []
    return [
        Markup("By squared error, <strong>{}</strong> is ahead ({} against {}).").format(
            errors.idxmin(), number(errors.min()), number(errors[best])
        )
    ]


def what_was_run(result: ResultTables) -> str:
    """One sentence: data, folds and encoders."""
    data, split = result.manifest.get("data", {}), result.manifest.get("split", {})
    n_controls = len(controls_of(result.encoders))
    n = len(result.encoders) - n_controls
    parts = [
        plural(data[key], word)
        for key, word in [("n_images", "image"), ("n_trials", "trial"), ("n_voxels", "voxel")]
        if key in data
    ]
    if data.get("n_repeats", 1) > 1:
        parts[:1] = [f"{parts[0]} with up to {data['n_repeats']} repeats"]
    folds = f" in {plural(split['n_folds'], 'fold')}" if "n_folds" in split else ""
    subject = "One encoder was" if n == 1 else f"{n} encoders were"
    if n_controls:
        subject = f"{plural(n, 'encoder')} and {plural(n_controls, 'null control')} were"
    about = f" The data: {joined(parts)}." if parts else ""
    if result.manifest.get("evaluation"):
        return f"{_evaluated(result.manifest)}{about}"
    return (
        f"{subject} fitted and scored{folds} of images: every score is of images that the fitted "
        f"encoder had not seen.{about}"
    )


def _evaluated(manifest: dict[str, Any]) -> str:
    """Sentences on encoders that were fitted before: what is known of their images, and of z."""
    n_seen = [known.get("n_seen") for known in manifest["evaluation"].values()]
    unseen = all(n == 0 for n in n_seen)
    about = " No test image has the features of a training image." if unseen else ""
    unit = manifest.get("z_units_of", "test")
    return (
        "Encoders that were fitted before are scored; nothing was fitted here."
        f"{about} Units of z are of the single trials of the {unit} data."
    )


def ceiling_note(manifest: dict[str, Any]) -> str:
    """Sentence on the estimator of the noise ceiling and its number of trials."""
    ceiling = manifest.get("noise_ceiling", {})
    if not ceiling:
        return "Its estimator is not in the manifest."
    n_trials = ceiling.get("n_trials_min_median_max", ceiling.get("n_trials", np.nan))
    trials = np.ravel(np.asarray(n_trials, dtype=float))
    trials = trials[np.isfinite(trials)]
    if not len(trials):
        return f"Estimator: {ceiling.get('estimator')}."
    spread = f" (from {trials.min():.3g} to {trials.max():.3g})" if np.ptp(trials) else ""
    return (
        f"Estimator: {ceiling.get('estimator')}, for responses averaged over "
        f"{np.median(trials):.3g} trials{spread}."
    )
