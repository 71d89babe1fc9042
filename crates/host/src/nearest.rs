//! The name that a misspelt one is near to: one rule for losses, samplers, their options and a
//! recipe's keys.

use strsim::osa_distance;

/// The candidate with the fewest edits, if it is near: at most a third of the letters differ, or
/// one of two to five. Small and capital letters are the same.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = name.chars().count();
    let most = (letters / 3).max(letters.saturating_sub(1).min(1));
    let name = name.to_lowercase();
    let distance = |candidate: &str| osa_distance(&name, &candidate.to_lowercase());
    let each = candidates.into_iter();
    let each = each.map(|candidate| (distance(candidate), candidate));
    let (found, near) = each.min_by_key(|(distance, _)| *distance)?;
    (found <= most).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn what_is_far_is_not_near() {
        let of = |name| nearest(name, ["epochs", "lr", "micro_batch_tokens", "aot", "top_k"]);
        assert_eq!(of("epoch"), Some("epochs"));
        assert_eq!(of("rl"), Some("lr"));
        assert_eq!(of("topk"), Some("top_k"));
        assert_eq!(of("aott"), Some("aot"));
        assert_eq!(of("AOT"), Some("aot"));
        assert_eq!(of("Top-K"), Some("top_k"));
        assert_eq!(of("microbatch_token"), Some("micro_batch_tokens"));
        for far in [
            "",
            "r",
            "dropout",
            "beta",
            "batch",
            "learning_rate",
            "foo",
            "top",
            "oat_",
        ] {
            assert_eq!(of(far), None, "{far}");
        }
        assert_eq!(nearest("lama", ["mistral", "llama"]), Some("llama"));
        assert_eq!(nearest("xyz", []), None);
    }
}
