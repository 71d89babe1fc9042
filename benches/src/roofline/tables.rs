//! Markdown, and the exponent of a power law.

/// A header with its rule.
pub fn table(titles: &[&str]) {
    println!("\n| {} |", titles.join(" | "));
    println!("|{}", "---|".repeat(titles.len()));
}

/// A row.
pub fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// The e of y = c·x^e that fits best: least squares over the logarithms.
pub fn exponent(xs: &[f64], ys: &[f64]) -> f64 {
    let n = xs.len() as f64;
    let logs: Vec<(f64, f64)> = xs.iter().zip(ys).map(|(x, y)| (x.ln(), y.ln())).collect();
    let mean_x = logs.iter().map(|l| l.0).sum::<f64>() / n;
    let mean_y = logs.iter().map(|l| l.1).sum::<f64>() / n;
    let products: f64 = logs.iter().map(|l| (l.0 - mean_x) * (l.1 - mean_y)).sum();
    let squares: f64 = logs.iter().map(|l| (l.0 - mean_x).powi(2)).sum();
    products / squares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_law_gives_back_its_exponent() {
        let xs = [1.0, 4.0, 16.0];
        let ys = xs.map(|x: f64| 3.0 * x.powf(1.5));
        assert!((exponent(&xs, &ys) - 1.5).abs() < 1e-12);
        // not a power law: the slope between the outer of three evenly spread points
        let slope = exponent(&xs, &[1.0, 5.0, 16.0]);
        assert!((slope - 1.0).abs() < 1e-12);
    }
}
