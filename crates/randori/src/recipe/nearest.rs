//! The name that a misspelt one is near to.

/// The candidate with the smallest edit distance, if it is near: at most a third of the letters
/// differ, or one of two.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let letters = name.chars().count();
    let most = (letters / 3).max(letters.saturating_sub(1).min(1));
    let each = candidates.map(|candidate| (distance(name, candidate), candidate));
    let (found, near) = each.min_by_key(|(distance, _)| *distance)?;
    (found <= most).then_some(near)
}

/// Edit distance with transpositions (restricted Damerau-Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn distances() {
        for (a, b, want) in [
            ("", "abc", 3),
            ("lr", "lr", 0),
            ("rl", "lr", 1),
            ("betas", "beta1", 1),
            ("epoch", "epochs", 1),
        ] {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }

    #[test]
    fn what_is_far_is_not_near() {
        let of = |name| nearest(name, ["epochs", "lr", "micro_batch_tokens"].into_iter());
        assert_eq!(of("epoch"), Some("epochs"));
        assert_eq!(of("rl"), Some("lr"));
        assert_eq!(of("microbatch_token"), Some("micro_batch_tokens"));
        for far in ["", "r", "dropout", "beta", "batch", "learning_rate"] {
            assert_eq!(of(far), None, "{far}");
        }
    }
}
