"""Which seasons a set of series has: the given or usual ones, and those that the data show.

Legend: k sampled series, N rows of each (the last ones before the holdout), L the longest lag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.series.options import TableOptions
from holdfast.series.order import shape_order
from holdfast.series.store import SeriesStore

Floats = NDArray[np.float64]

SERIES = 256  # sampled at most
VALUES = 2**18  # looked at in all
LARGEST_CONTEXT = 2**14  # steps that are fed by default; nothing can be learned from a season that does not fit
ROWS = 24  # a series with fewer shows no season
MULTIPLES = range(2, 13)  # of the seasons known already that are looked at closely
PER_OCTAVE = 3  # lags between one power of two and the next that are looked at closely
SHARE = 0.1  # of the sampled series must show a season
SPREAD = 0.45  # of a detrended random walk's autocorrelation at one season, times sqrt(seasons in the data); simulated
CERTAINTY = 3.55  # spreads by which a season must stand out: one series in 5000 does by chance
LOWEST = 0.3  # autocorrelation that is worth a season
RETURN = 0.6  # of the autocorrelation must be there again after two seasons
GAIN = 0.1  # share of what a season leaves unexplained that a further one must explain


@dataclass(frozen=True)
class Season:
    """A season length and why it is one.

    Attributes:
        length: Steps.
        reason: "given", "usual for 1h data" or "found: ...", with what was measured, or left out.

    Example:
        >>> Season(24, "usual for 1h data").length
        24
    """

    length: int
    reason: str


def find_seasons(
    store: SeriesStore, given: tuple[int, ...] | None = None, holdout: int = 0, longest: int = LARGEST_CONTEXT
) -> tuple[Season, ...]:
    """The seasons to forecast with: the first given or usual one, the others that fit, and those found in the data.

    A lag is found to be a season if a tenth of the sampled series say so. A series with m seasons of p rows (m at
    least 3) says so if

    * its autocorrelation r(p), around a moving average of p rows, is at least max(0.3, 1.6 / sqrt(m)). The moving
      average takes out trends; a random walk exceeds 1.6 / sqrt(m) once in 5000 times;
    * r falls below zero before lag p (a slow change would not), and r(2 p) is still 0.6 r(p) (a cycle of varying
      length would have lost it);
    * what it leaves unexplained, the variance of y_t - y_{t-p} with or without a moving average, is clearly (10 % and
      3 / sqrt(rows)) less than that of every season known already, which a mere multiple of a season is not;
    * neither 2 p nor 3 p is clearly better than p, as they are for half of a season.

    The shortest such lag is the first season if none is known; after that comes, again and again, the lag that most
    series call one more season.

    At most 256 series, evenly spaced in the order of `shape_order`, and their last rows (2**18 in all) are looked at.

    Args:
        store: The series.
        given: Season lengths that the user knows, the most important one first; None for the usual ones, () for none.
        holdout: Last rows of each series that must not be looked at.
        longest: Steps; longer seasons are left out, and not looked for.

    Returns:
        The seasons, the most important one first; none if none is given, usual or found.

    Example:
        >>> import polars as pl
        >>> from holdfast.series import TableOptions, check_table, open_table
        >>> y = 10 + np.tile([3.0, 1.0, 0.0, 0.0, 1.0, 5.0, 7.0], 20) + np.random.default_rng(0).normal(size=140)
        >>> table = open_table(pl.DataFrame({"ds": np.arange(140), "y": y}))
        >>> store = check_table(table, TableOptions(horizon=7)).store
        >>> find_seasons(store)
        (Season(length=7, reason='found: autocorrelation 0.87 at lag 7, in 1 of 1 series'),)
    """
    seasons = _expected(store, given, holdout, longest)
    values = _sample(store, holdout)
    if not values.size:
        return tuple(seasons)
    chosen = [season.length for season in seasons]
    peaks = {_sharpen(values, peak) for peak in _candidates(values, longest)}
    while (found := _strongest(values, sorted(peaks | _multiples(chosen, longest)), chosen)) is not None:
        seasons.append(found)
        chosen.append(found.length)
    return tuple(seasons)


def seasons_of(
    store: SeriesStore, options: TableOptions, holdout: int, longest: int = LARGEST_CONTEXT
) -> tuple[Season, ...]:
    """The seasons that a user's options leave to be found.

    Args:
        store: The series.
        options: With the season lengths that the user gave, if any.
        holdout: Last rows of each series that must not be looked at.
        longest: Steps; longer seasons are left out, and not looked for.

    Returns:
        The seasons, the most important one first; none where the user said that there is none.

    Example:
        >>> import polars as pl
        >>> from holdfast.series import check_table, open_table
        >>> options = TableOptions(horizon=7, season_length="none")
        >>> table = open_table(pl.DataFrame({"ds": range(140), "y": [k % 7 for k in range(140)]}))
        >>> store = check_table(table, options).store
        >>> seasons_of(store, options, holdout=7)
        ()
    """
    return find_seasons(store, options.seasons_given, holdout, longest) if options.look_for_seasons else ()


def left_out(store: SeriesStore, options: TableOptions, longest: int = LARGEST_CONTEXT) -> tuple[str, ...]:
    """Which given or usual seasons are left out because the context does not hold them, in words; nothing if none is.

    Example:
        >>> import polars as pl
        >>> from holdfast.series import check_table, open_table
        >>> options = TableOptions(horizon=6, freq="1s")
        >>> times = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 1, 0, 1), "1s", eager=True)
        >>> store = check_table(open_table(pl.DataFrame({"ds": times, "y": range(61)})), options).store
        >>> left_out(store, options)[0].partition(";")[0]
        'season 86400: left out, longer than the largest context of 16384 steps'
        >>> left_out(store, options, longest=86_400)
        ()
    """
    lengths = _lengths(store, options.seasons_given) if options.look_for_seasons else ()
    out = [length for length in lengths if length > longest]
    if not out:
        return ()
    return (
        f"season {', '.join(map(str, out))}: left out, longer than the largest context of {longest} steps;"
        f" give --context-length {max(out)} to feed it, with a smaller --batch-size if memory is short",
    )


def autocorrelation(values: Floats, window: int, max_lag: int) -> Floats:
    """Autocorrelation of each series around its own centred moving average, by FFT, over pairs that were observed.

    The moving average is that of classical decomposition (an even window has half weights at its ends). What it
    leaves of a random walk or of a trend has no autocorrelation at lags of `window` and more.

    Args:
        values: Series side by side, nan where missing [k, N].
        window: Rows of the moving average.
        max_lag: L.

    Returns:
        Autocorrelation at lags 0 to L, 0 where it is undefined [k, L + 1].

    Example:
        >>> wave = np.tile([0.0, 1.0, 0.0, -1.0], 50)[None]
        >>> autocorrelation(wave, 4, 4).round(2).tolist()
        [[1.0, 0.0, -1.0, 0.0, 1.0]]
    """
    rest = _around_average(values, window)
    seen = np.isfinite(rest)
    rest = np.where(seen, rest, 0.0)
    rest -= seen * (rest.sum(1) / np.maximum(seen.sum(1), 1))[:, None]
    size = 1 << (values.shape[1] + max_lag).bit_length()
    products, pairs = (
        np.fft.irfft(np.abs(np.fft.rfft(part, size)) ** 2, size)[:, : max_lag + 1] for part in (rest, seen)
    )
    covariance = products / np.maximum(pairs.round(), 1)
    varies = covariance[:, :1] > 1e-20 * _largest(values) ** 2  # less is rounding
    return np.asarray(covariance / np.where(varies, covariance[:, :1], np.inf))


def _lengths(store: SeriesStore, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The given or usual seasons."""
    return tuple(dict.fromkeys(store.freq.seasons if given is None else given))


def _expected(store: SeriesStore, given: tuple[int, ...] | None, holdout: int, longest: int) -> list[Season]:
    """Of those that are not too long: the first one always, the others if the data hold two of them."""
    source = f"usual for {store.freq.text} data" if given is None else "given"
    lengths = [length for length in _lengths(store, given) if length <= longest]
    rows = max(int(store.lengths.max()) - holdout, 0)
    kept = [length for length in lengths if 2 * length <= rows or length == lengths[0]]
    left_out = [str(length) for length in lengths if length not in kept]
    seasons = [Season(length, source) for length in kept]
    if left_out:
        reason = f"{source}; left out: {', '.join(left_out)} (the longest series has {rows} rows before the holdout)"
        seasons[0] = Season(kept[0], reason)
    return seasons


def _sample(store: SeriesStore, holdout: int) -> Floats:
    """The last rows before the holdout of evenly spaced series, scaled, side by side; nan fills up short ones."""
    lengths = np.maximum(store.lengths - holdout, 0)
    order = shape_order(store.y, store.offsets[:-1], lengths)
    long_enough = order[lengths[order] >= ROWS]
    if not len(long_enough):
        return np.empty((0, 0))
    sampled = long_enough[np.linspace(0, len(long_enough) - 1, min(SERIES, len(long_enough))).astype(int)]
    width = min(int(lengths[sampled].max()), VALUES // len(sampled))
    values = np.full((len(sampled), width), np.nan)
    for row, i in enumerate(sampled.tolist()):
        last = store.values(i)[: lengths[i]][-width:]
        seen = last[np.isfinite(last)]  # a value is taken off first: a level of 1e12 would take the digits of the rest
        values[row, width - len(last) :] = last - (seen[-1] if len(seen) else 0.0)
    values = values[_largest(values)[:, 0] > 0]
    values /= _largest(values)
    values -= np.nanmean(values, axis=1, keepdims=True)
    values = values[_largest(values)[:, 0] > 0]
    return np.asarray(values / _largest(values))


def _largest(values: Floats) -> Floats:
    """Largest absolute value of each series [k, 1]."""
    return np.asarray(np.fmax.reduce(np.abs(values), axis=1, initial=0.0))[:, None]


def _rows(values: Floats) -> NDArray[np.int64]:
    """Rows of each series from its first one in the sample on [k]."""
    return np.asarray(values.shape[1] - np.isfinite(values).argmax(1))


def _candidates(values: Floats, longest: int) -> list[int]:
    """Lags at which the autocorrelation of the better series peaks, a few in each octave, shortest first."""
    rows, found = _rows(values), []
    longest = min(int(rows.max(initial=0)) // 3, longest)
    for octave in range(1, longest.bit_length()):
        window = 2**octave
        lags = np.arange(window, min(2 * window, longest + 1))
        curve = autocorrelation(values, window, int(lags[-1]) + 1)[:, window - 1 :]
        curve[rows[:, None] < 3 * np.append(lags[0], np.append(lags, lags[-1]))] = -1.0
        enough = np.maximum(1, np.ceil(SHARE * (rows[:, None] >= 3 * lags).sum(0))).astype(int)
        ranked = -np.sort(-curve, axis=0)
        height = ranked[enough - 1, np.arange(1, len(lags) + 1)]
        left, right = ranked[enough - 1, np.arange(len(lags))], ranked[enough - 1, np.arange(2, len(lags) + 2)]
        peaks = np.flatnonzero((height >= left) & (height >= right) & (height >= LOWEST / 2))
        best = peaks[np.argsort(-height[peaks], kind="stable")[:PER_OCTAVE]]
        found += sorted(lags[best].tolist())
    return found


def _multiples(chosen: list[int], longest: int) -> set[int]:
    """Multiples of the seasons known: among the peaks at every day, that of the week is easily overlooked."""
    return {count * season for season in chosen for count in MULTIPLES if count * season <= longest}


def _sharpen(values: Floats, peak: int) -> int:
    """The lag near a peak whose multiples correlate best: there, an error of one step is one of many."""
    rows = _rows(values)
    values = values[rows >= 3 * peak]
    reach, times = max(1, peak // 12), np.arange(1, max(2, min(64, int(rows.max()) // (2 * peak))) + 1)
    near = np.arange(max(2, peak - reach), peak + reach + 1)
    lags = near[:, None] * times
    correlation = autocorrelation(values, peak, min(int(lags.max()), values.shape[1] - 1))
    seasonal = correlation[:, peak] >= LOWEST
    if not seasonal.any():
        return peak
    inside = lags < correlation.shape[1]
    comb = np.where(inside, correlation[seasonal].mean(0)[np.where(inside, lags, 0)], 0.0).sum(1)
    return int(near[comb.argmax()])


def _strongest(values: Floats, lags: list[int], chosen: list[int]) -> Season | None:
    """The lag that most series call one more season; the shortest one as long as none is known."""
    best, most = None, 0
    for lag in lags:
        if lag in chosen:
            continue
        enough = _rows(values) >= 3 * lag
        if not enough.any():
            continue
        votes = _votes(values[enough], lag, chosen)
        if votes.sum() > most and votes.sum() >= SHARE * len(votes):
            best, most = Season(lag, _found(values[enough], votes, lag, chosen)), int(votes.sum())
            if not chosen:
                break
    return best


def _votes(values: Floats, lag: int, chosen: list[int]) -> NDArray[np.bool_]:
    """Which series call this lag a season [k]."""
    rows = _rows(values)
    correlation = autocorrelation(values, lag, min(2 * lag, values.shape[1] - 1))
    at_lag = correlation[:, lag]
    votes = at_lag >= np.maximum(LOWEST, CERTAINTY * SPREAD / np.sqrt(rows / lag))
    votes &= correlation[:, 1:lag].min(1) < 0
    votes &= (rows < 4 * lag) | (correlation[:, -1] >= RETURN * at_lag)
    for season in chosen:
        votes &= _clearly_better(values, lag, season, rows)
    for times in (2, 3):
        votes &= ~_clearly_better(values, times * lag, lag, rows) | (rows < (times + 1) * lag)
    return votes


def _found(values: Floats, votes: NDArray[np.bool_], lag: int, chosen: list[int]) -> str:
    """What the series that voted for a season show."""
    correlation = np.median(autocorrelation(values[votes], lag, values.shape[1] - 1), axis=0)
    known = [float(correlation[season]) for season in chosen if season < len(correlation)]
    against = f" against {max(known):.2f} at the seasons before" if known else ""
    return (
        f"found: autocorrelation {correlation[lag]:.2f} at lag {lag}{against}, in {votes.sum()} of {len(votes)} series"
    )


def _clearly_better(values: Floats, lag: int, season: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a lag leaves clearly less unexplained than a season does [k]."""
    if max(lag, season) >= values.shape[1]:
        return np.full(len(values), lag < season)  # nothing is known of a season longer than the data
    better = np.zeros(len(values), dtype=bool)
    around = _around_average(values, min(lag, season))
    # As they are, a walk or a trend speaks for the shorter lag: only the longer one can win there.
    for rest in (around, values) if lag > season else (around,):
        unexplained, before = _difference_variance(rest, lag), _difference_variance(rest, season)
        better |= unexplained < (1 - GAIN - 3 / np.sqrt(rows)) * np.where(before > 1e-12, before, 0.0)
    return better


def _difference_variance(values: Floats, lag: int) -> Floats:
    """Var(y_t - y_{t-lag}) of each series, nan where there is no pair [k]."""
    difference = values[:, lag:] - values[:, :-lag]
    seen = np.isfinite(difference)
    pairs, difference = seen.sum(1), np.where(seen, difference, 0.0)
    mean = difference.sum(1) / np.maximum(pairs, 1)
    variance = (difference**2).sum(1) / np.maximum(pairs, 1) - mean**2
    return np.where(pairs > 1, variance, np.nan)


def _around_average(values: Floats, window: int) -> Floats:
    """Values minus their centred moving average; nan at both ends and where less than half of a window was observed."""
    half, n = window // 2, values.shape[1]
    rest = np.full_like(values, np.nan)
    if n <= 2 * half:
        return rest
    seen = np.isfinite(values)
    total, count = (_moving_sum(part, window) for part in (np.where(seen, values, 0.0), seen.astype(np.float64)))
    inner = slice(half, n - half)
    usable = seen[:, inner] & (count >= window / 2)
    rest[:, inner] = np.where(usable, values[:, inner] - total / np.maximum(count, 1), np.nan)
    return rest


def _moving_sum(values: Floats, window: int) -> Floats:
    """Sums over centred windows; an even window covers one row more, with half weight at both ends."""
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    if window % 2:
        return sums[:, window:] - sums[:, :-window]
    return (sums[:, window:-1] - sums[:, : -window - 1] + sums[:, window + 1 :] - sums[:, 1:-window]) / 2
