//! Quantiles of histograms.

/// Estimates a quantile like Prometheus' `histogram_quantile`: linear within the bucket with the rank, from 0 in the first
/// one. In the bucket above the last bound it returns that bound, which is too low. `None` without observations.
///
/// `counts` are not cumulative, and there is one more of them than `bounds`.
pub fn quantile(share: f64, bounds: &[f64], counts: &[u64]) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    if all == 0 {
        return None;
    }
    let rank = share * all as f64;
    let (mut lower, mut below) = (0.0, 0.0);
    for (&upper, &count) in bounds.iter().zip(counts) {
        let count = count as f64;
        if count > 0.0 && below + count >= rank {
            return Some(lower + (upper - lower) * (rank - below) / count);
        }
        (lower, below) = (upper, below + count);
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::quantile;

    const BOUNDS: [f64; 3] = [0.1, 0.2, 1.0];

    /// What `promtool` says of the same buckets (cumulative 4, 8, 9, 10).
    #[test]
    fn is_linear_within_its_bucket() {
        let counts = [4, 4, 1, 1];
        for (share, expected) in
            [(0.0, 0.0), (0.2, 0.05), (0.4, 0.1), (0.5, 0.125), (0.8, 0.2), (0.9, 1.0)]
        {
            let got = quantile(share, &BOUNDS, &counts).unwrap();
            assert!((got - expected).abs() < 1e-12, "{share}: {got}, not {expected}");
        }
    }

    #[test]
    fn beyond_all_bounds_it_is_the_last_bound() {
        assert_eq!(quantile(0.99, &BOUNDS, &[4, 4, 1, 1]), Some(1.0));
        assert_eq!(quantile(0.5, &BOUNDS, &[0, 0, 0, 7]), Some(1.0));
    }

    #[test]
    fn empty_buckets_are_passed_over() {
        assert_eq!(quantile(0.5, &[0.25, 0.5, 1.0], &[0, 2, 0, 0]), Some(0.375));
        assert_eq!(quantile(0.0, &BOUNDS, &[0, 2, 0, 0]), Some(0.1));
    }

    #[test]
    fn of_nothing_there_is_none() {
        assert_eq!(quantile(0.5, &BOUNDS, &[0; 4]), None);
        assert_eq!(quantile(0.5, &[], &[]), None);
    }
}
