//! Signs of all seeds and iterations as warnings, one for each kind.

use std::collections::BTreeSet;

use randori_eval::Sign;

/// A sign, and the seed and iteration it was seen in.
type Seen<'a> = (u64, usize, &'a Sign);

/// A line for every kind of sign: where it was seen, and what it says where it is worst. Of each
/// seed there are the signs of each iteration.
pub fn of(seeds: &[(u64, &[Vec<Sign>])]) -> Vec<String> {
    let mut kinds: Vec<Vec<Seen>> = Vec::new();
    for (seed, iterations) in seeds {
        for (t, signs) in iterations.iter().enumerate() {
            for sign in signs {
                let seen = (*seed, t, sign);
                match kinds.iter_mut().find(|of| of[0].2.name() == sign.name()) {
                    Some(of) => of.push(seen),
                    None => kinds.push(vec![seen]),
                }
            }
        }
    }
    let line = |of: &Vec<Seen>| folded(of, seeds.len());
    kinds.iter().filter_map(line).collect()
}

/// The line of one kind, in a run of so many seeds.
fn folded(of: &[Seen], all: usize) -> Option<String> {
    // the first of the worst
    let each = of.iter().rev();
    let (seed, t, sign) = each.max_by(|a, b| a.2.strength().total_cmp(&b.2.strength()))?;
    let place = match all {
        1 => format!("iteration {t}"),
        _ => format!("seed {seed}, iteration {t}"),
    };
    if of.len() == 1 {
        return Some(format!("{place}: {sign}"));
    }
    let iterations: BTreeSet<usize> = of.iter().map(|seen| seen.1).collect();
    let iterations = match iterations.len() {
        1 => format!("iteration {t}"),
        _ => format!("iterations {}", listed(&iterations)),
    };
    let seeds: BTreeSet<u64> = of.iter().map(|seen| seen.0).collect();
    let seeds = match all {
        1 => String::new(),
        _ => format!(" of {} of {all} seeds", seeds.len()),
    };
    Some(format!("{iterations}{seeds}, most in {place}: {sign}"))
}

/// Numbers with commas, and "to" where none between is left out.
fn listed(numbers: &BTreeSet<usize>) -> String {
    if let (Some(first), Some(last)) = (numbers.first(), numbers.last())
        && numbers.len() > 2
        && last - first + 1 == numbers.len()
    {
        return format!("{first} to {last}");
    }
    let each: Vec<String> = numbers.iter().map(usize::to_string).collect();
    each.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begins(seeds: &[Vec<Vec<Sign>>], wanted: &[&str]) {
        let numbered = seeds.iter().enumerate();
        let numbered: Vec<(u64, &[Vec<Sign>])> =
            numbered.map(|(i, of)| (i as u64 + 1, &of[..])).collect();
        let lines = of(&numbered);
        assert_eq!(lines.len(), wanted.len(), "{lines:?}");
        for (line, wanted) in lines.iter().zip(wanted) {
            assert!(line.starts_with(wanted), "{line} for {wanted}");
        }
    }

    #[test]
    fn signs_of_a_kind_are_one_line() {
        let half = || vec![vec![], vec![Sign::Equal(0.5)]];
        begins(&[half()], &["iteration 1: 50 % of the generated"]);
        let growing = vec![
            vec![Sign::Equal(0.3)],
            vec![Sign::AtOnce(4), Sign::Equal(0.5)],
            vec![Sign::Equal(0.4), Sign::AtOnce(2)],
        ];
        begins(
            &[growing],
            &[
                "iterations 0 to 2, most in iteration 1: 50 % of the generated",
                "iterations 1, 2, most in iteration 2: all pairs were told apart by step 2",
            ],
        );
        begins(
            &[half(), vec![vec![Sign::First(0.9)]], half()],
            &[
                "iteration 1 of 2 of 3 seeds, most in seed 1, iteration 1: 50 %",
                "seed 2, iteration 0: 90 % of the margin",
            ],
        );
    }
}
