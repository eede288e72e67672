"""Whether a probability means what it says: calibration error, and the one or two numbers that mend most of it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from csra_lab.errors import ConfigError
from csra_lab.metrics.functions import check_probabilities, checked

BINS = 15
MAX_TEMPERATURE = 55.0  # and 1/55 is the least: where the best scale is 0 or negative, no temperature mends it


def calibration_error(scores: ArrayLike, targets: ArrayLike) -> float:
    """Expected calibration error over all labels of all images (Guo et al., ICML 2017, on each label's yes or no).

    Labels are sorted into 15 bins of equal width by their probability. In each bin the mean probability is held against
    the share of labels that are present; the error is the mean of the distances, weighted by the labels in a bin.

    Args:
        scores: (N, C) probabilities. targets: (N, C) of 1, 0 and -1; -1 is left out.

    Raises:
        CsraError: shapes that do not fit, scores that are no probabilities, or no label that is known.
    """
    scores, targets = checked(scores, targets)
    check_probabilities(scores, None)
    p, y = _known(scores, targets)
    place = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(place, weights=p - y, minlength=BINS)
    return float(np.abs(gaps).sum() / len(p))


def log_loss(logits: ArrayLike, targets: ArrayLike) -> float:
    """Mean binary cross-entropy of (N, C) logits against (N, C) targets of 1, 0 and -1; -1 is left out.

    Raises:
        CsraError: shapes that do not fit, logits that are not finite, or no label that is known.
    """
    z, y = _known(logits, targets)
    return float(np.mean(np.logaddexp(0, z) - np.where(y, z, 0)))


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """The t > 0 for which logits / t have the smallest log loss: temperature scaling, one number for all classes.

    Args:
        logits: (N, C) of images that the head was not trained on. targets: (N, C) of 1, 0 and -1; -1 is left out.

    Raises:
        CsraError: the labels cannot choose it, see `_fit`.
    """
    scale, _ = _fit(logits, targets, shift=False)
    return 1 / min(max(scale, 1 / MAX_TEMPERATURE), MAX_TEMPERATURE)


def fit_scale_and_shift(logits: ArrayLike, targets: ArrayLike) -> tuple[float, float]:
    """The a and b for which a * logits + b have the smallest log loss: Platt scaling, two numbers for all classes.

    Args:
        logits: (N, C) of images that the head was not trained on. targets: (N, C) of 1, 0 and -1; -1 is left out.

    Raises:
        CsraError: the labels cannot choose them, see `_fit`.
    """
    return _fit(logits, targets, shift=True)


def _fit(logits: ArrayLike, targets: ArrayLike, *, shift: bool) -> tuple[float, float]:
    """Logistic regression of all known labels on their logit: the slope, and the intercept or 0.

    Raises:
        CsraError: see `_known`; or the known labels are all present, or all absent, so that no scale fits best.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    z, y = _known(logits, targets)
    if y.all() or not y.any():
        raise ConfigError(
            f"all {len(y)} known labels are {'present' if y.all() else 'absent'}, so no scale of the logits fits best; "
            "calibrate on images that have both."
        )
    regression = LogisticRegression(C=np.inf, fit_intercept=shift, tol=1e-8, max_iter=1000)
    regression.fit(z[:, None], y)
    return float(regression.coef_[0, 0]), float(regression.intercept_[0]) if shift else 0.0


def _known(scores: ArrayLike, targets: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The scores of all known labels as one list, and whether each label is present: (K,) both.

    Raises:
        CsraError: shapes that do not fit, scores that are not finite, or no label that is known.
    """
    scores, targets = checked(scores, targets)
    known = targets >= 0
    if not known.any():
        raise ConfigError("no label is known, so no score can be held against one.")
    return scores[known].astype(np.float64), targets[known] == 1


def calibration(held_out: ArrayLike, held_targets: ArrayLike, test: ArrayLike, targets: ArrayLike) -> dict[str, float]:
    """Calibration of one head on test images: as it is, after temperature scaling, and after a scale and a shift.

    The numbers that scale and shift are fitted to held-out images.

    Args:
        held_out, test: (M, C) and (N, C) logits. held_targets, targets: (M, C) and (N, C) of 1, 0 and -1.

    Returns:
        ece, log_loss; temperature, ece_scaled, log_loss_scaled; scale, shift, ece_shifted, log_loss_shifted. Errors are
        fractions, losses in nats.
    """
    t, (a, b) = fit_temperature(held_out, held_targets), fit_scale_and_shift(held_out, held_targets)
    test = np.asarray(test, dtype=np.float64)
    return {
        "ece": calibration_error(expit(test), targets),
        "log_loss": log_loss(test, targets),
        "temperature": t,
        "ece_scaled": calibration_error(expit(test / t), targets),
        "log_loss_scaled": log_loss(test / t, targets),
        "scale": a,
        "shift": b,
        "ece_shifted": calibration_error(expit(a * test + b), targets),
        "log_loss_shifted": log_loss(a * test + b, targets),
    }
