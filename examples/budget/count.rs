//! What a list of stamps says: the fullest window, how much of a limit was used, quantiles. Pure.

/// A second, in microseconds.
pub(crate) const SECOND: u64 = 1_000_000;

/// The most weight in any sliding window of `length` microseconds; stamps ascend. Two stamps exactly a length apart are not
/// in the same window.
pub(crate) fn fullest(stamps: &[(u64, u64)], length: u64) -> u64 {
    let (mut first, mut weight, mut most) = (0, 0, 0);
    for &(at, one) in stamps {
        weight += one;
        while stamps[first].0 + length <= at {
            weight -= stamps[first].1;
            first += 1;
        }
        most = most.max(weight);
    }
    most
}

/// The weight from `from` on and before `to`.
pub(crate) fn between(stamps: &[(u64, u64)], from: u64, to: u64) -> u64 {
    let inside = stamps.iter().filter(|(at, _)| (from..to).contains(at));
    inside.map(|(_, weight)| weight).sum()
}

/// A quantile of values in any order; 0 of none.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * share).ceil() as usize;
    values.get(index.max(1) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_half_open_and_weigh_what_is_in_them() {
        let stamps = [(0, 1), (400_000, 2), (999_999, 3), (1_000_000, 4)];
        assert_eq!(fullest(&stamps, SECOND), 9);
        assert_eq!(fullest(&stamps[..3], SECOND), 6);
        assert_eq!(between(&stamps, 400_000, 1_000_000), 5);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let mut values = [3.0, 1.0, 2.0, 4.0];
        assert!((quantile(&mut values, 0.5) - 2.0).abs() < f64::EPSILON);
        assert!((quantile(&mut values, 0.99) - 4.0).abs() < f64::EPSILON);
        assert!(quantile(&mut [], 0.5).abs() < f64::EPSILON);
    }
}
