//! Damaged recipes: each is refused in one line or valid, as in tests/fuzz.rs for every other format.

use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use mutate::{Kind, Rng};

use super::Recipe;

#[path = "../../../../tests/fuzz/mutate.rs"]
mod mutate;

const RECIPES: [&str; 3] = [
    include_str!("../../../../configs/demo.toml"),
    include_str!("../../../../configs/paper-schedule.toml"),
    include_str!("../../../../configs/smollm2-gsm8k.toml"),
];

#[test]
fn damaged_recipes_are_errors_or_valid() {
    let (mut valid, mut refused) = (0, 0);
    for case in 0..10_000u64 {
        let mut rng = Rng::new("recipe", case);
        let input = RECIPES[case as usize % RECIPES.len()].as_bytes();
        let kind = if case % 8 == 0 {
            Kind::Bytes
        } else {
            Kind::Text
        };
        let damaged = mutate::mutate(&mut rng, kind, input);
        let text = String::from_utf8_lossy(&damaged).into_owned();
        let set =
            [
                String::from_utf8_lossy(&mutate::mutate(
                    &mut rng,
                    Kind::Text,
                    b"train.lr=[1e-4, 2]",
                ))
                .into_owned(),
            ];
        let overrides = if case % 2 == 0 { &set[..] } else { &[] };
        let begun = Instant::now();
        let read = catch_unwind(|| {
            Recipe::parse("recipe.toml", &text, Path::new(""), overrides)
                .map(|recipe| recipe.resolved())
        });
        match read {
            Err(_) => panic!("case {case} panics:\n{text}\n{overrides:?}"),
            Ok(Ok(_)) => valid += 1,
            Ok(Err(e)) => {
                assert!(
                    !e.place.is_empty() && !e.rule.is_empty(),
                    "case {case}: {e}"
                );
                refused += 1;
            }
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "case {case} takes {took:?}");
    }
    assert!(
        valid > 500 && refused > 2000,
        "{valid} valid, {refused} refused"
    );
}
