//! Straight lines through measured points: how something grows.

/// The slope of the line with the smallest squared error through `(x, y)`; `None` when all `x` are one.
pub(crate) fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|p| (p.0 - mean_x).powi(2)).sum();
    let common: f64 = points.iter().map(|p| (p.0 - mean_x) * (p.1 - mean_y)).sum();
    (spread > 0.0).then(|| common / spread)
}

/// The `e` of `y ~ x^e`: the slope over logarithms. All numbers must be above zero.
pub(crate) fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points.iter().map(|&(x, y)| (x.ln(), y.ln())).collect();
    slope(&logs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: Option<f64>, wanted: f64) {
        let found = found.unwrap();
        assert!((found - wanted).abs() < 1e-9, "{found} instead of {wanted}");
    }

    #[test]
    fn a_line_has_its_slope_and_noise_around_it_does_not_count() {
        near(slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]), 2.0);
        near(slope(&[(0.0, 1.0), (1.0, 2.0), (2.0, 2.0), (3.0, 3.0)]), 0.6);
        near(slope(&[(5.0, 7.0), (9.0, 7.0)]), 0.0);
    }

    #[test]
    fn without_two_places_there_is_no_slope() {
        assert_eq!(slope(&[]), None);
        assert_eq!(slope(&[(3.0, 1.0)]), None);
        assert_eq!(slope(&[(3.0, 1.0), (3.0, 2.0)]), None);
    }

    #[test]
    fn the_exponent_of_a_power_is_found() {
        let points: Vec<(f64, f64)> =
            [10.0f64, 30.0, 100.0].iter().map(|&x| (x, 4.0 * x.powf(1.5))).collect();
        near(exponent(&points), 1.5);
        assert_eq!(exponent(&[(10.0, 2.0)]), None);
    }
}
