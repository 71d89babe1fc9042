//! Validation data kept aside from the training data: which examples, by a hash of their prompts,
//! so that data which grows does not move them to the other side.

use std::collections::BTreeSet;
use std::fmt;

use randori_data::{Message, Record};

use crate::figures::counted;
use crate::recipe::{DataTurns, Share};

/// How many examples of the training data were kept aside as validation. Its text is what a run's
/// manifest keeps.
#[derive(Debug, Clone, PartialEq)]
pub struct Aside {
    /// Examples kept aside; 0 where there are too few prompts.
    pub kept: usize,
    /// All examples.
    examples: usize,
    /// Different prompts among them.
    prompts: usize,
    share: Share,
}

impl Aside {
    /// A sentence for whoever trains.
    pub fn note(&self) -> String {
        match (self.kept, self.share.least) {
            (0, _) => format!("no validation data: {self}"),
            (_, 0) => format!("kept aside for validation: {self}"),
            _ => format!(
                "kept aside for validation: {self}; data.validation = \"none\" turns that off (`run` \
                 then wants data.held_out: it measures on rows that it does not train on)"
            ),
        }
    }
}

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, least) = ((self.share.share * 1e4).round() / 1e2, self.share.least);
        if self.kept == 0 {
            let prompts = counted(self.prompts, "different prompt");
            write!(
                f,
                "data.train has {prompts}, too few to keep {percent} % aside"
            )?;
            return match least {
                0 => Ok(()),
                _ => write!(f, " ({} are needed)", 2 * least),
            };
        }
        let (kept, examples) = (self.kept, self.examples);
        write!(
            f,
            "{kept} of {examples} examples of data.train ({percent} %"
        )?;
        if least > 0 {
            write!(f, ", {} at least", counted(least, "prompt"))?;
        }
        f.write_str(", by a hash of each prompt)")
    }
}

/// Tells which of the training examples are kept aside: those whose hash lies in the lowest `share`
/// of all hashes, or, where these are fewer than `share.least` different prompts, those with the
/// lowest hashes. So an example that is added, or repeated, moves no other from training to
/// validation, and none the other way either once the share alone is enough.
pub fn aside(records: &[Record], share: Share, turns: DataTurns) -> (Vec<bool>, Aside) {
    let hashes: Vec<u64> = records.iter().map(|r| hash(opening(r, turns))).collect();
    let prompts: BTreeSet<u64> = hashes.iter().copied().collect();
    let border = border(&prompts, share);
    let sides: Vec<bool> = hashes.iter().map(|hash| Some(*hash) <= border).collect();
    let aside = Aside {
        kept: sides.iter().filter(|aside| **aside).count(),
        examples: records.len(),
        prompts: prompts.len(),
        share,
    };
    (sides, aside)
}

/// The greatest hash that is kept aside, if any is.
fn border(prompts: &BTreeSet<u64>, share: Share) -> Option<u64> {
    if prompts.len() < 2 * share.least {
        return None;
    }
    let end = share.share * u64::MAX as f64;
    let within = prompts.iter().take_while(|hash| (**hash as f64) < end);
    let count = within.count().max(share.least);
    prompts.iter().take(count).next_back().copied()
}

/// The messages that decide: the prompt, or a plain text that has none. Where every turn is an
/// example, only the beginning up to the first request, which the examples of one conversation
/// share.
fn opening(record: &Record, turns: DataTurns) -> &[Message] {
    let prompt = match record.prompt.is_empty() {
        true => std::slice::from_ref(&record.response),
        false => &record.prompt[..],
    };
    let asks = |m: &Message| !matches!(m.role(), "system" | "developer" | "assistant");
    match (turns, prompt.iter().position(asks)) {
        (DataTurns::Every, Some(first)) => &prompt[..=first],
        _ => prompt,
    }
}

/// The first 64 bits of a SHA-256 over roles and texts, white space around a text left out.
fn hash(messages: &[Message]) -> u64 {
    let parts = messages
        .iter()
        .flat_map(|m| [m.role(), "\0", m.content().trim(), "\0"].map(str::as_bytes));
    let hex = randori_store::hash_bytes(parts);
    let first = hex.get(..16);
    first
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Share = Share {
        share: 0.05,
        least: 16,
    };

    fn record(prompt: Vec<Message>) -> Record {
        Record {
            place: randori_data::Place {
                file: "d.jsonl".into(),
                line: 1,
            },
            prompt,
            context: Default::default(),
            response: Message::assistant("a"),
            rejected: None,
            rejected_cut: false,
            rewards: None,
        }
    }

    fn asking(i: usize) -> Record {
        record(vec![Message::user(format!("What is {i} plus {i}?"))])
    }

    /// Prompts that are kept aside, by number.
    fn kept(numbers: &[usize], share: Share) -> BTreeSet<usize> {
        let records: Vec<Record> = numbers.iter().map(|i| asking(*i)).collect();
        let (sides, said) = aside(&records, share, DataTurns::Last);
        assert_eq!(said.kept, sides.iter().filter(|side| **side).count());
        let numbers = numbers.iter().zip(sides).filter(|(_, side)| *side);
        numbers.map(|(i, _)| *i).collect()
    }

    /// Right values: Python's `hashlib.sha256(f"user\0What is {i} plus {i}?\0".encode())`, those of
    /// whose first 64 bits the value is below a twentieth of 2^64.
    #[test]
    fn the_lowest_hashes_are_kept_aside() {
        let of_600: BTreeSet<usize> = [
            9, 30, 38, 42, 124, 140, 155, 185, 194, 233, 253, 274, 310, 316, 318, 401, 429, 431,
            432, 455, 457, 458, 460, 522, 525, 527, 541, 544, 557, 570, 579,
        ]
        .into();
        let all: Vec<usize> = (0..600).collect();
        assert_eq!(kept(&all, USUAL), of_600);
        // of 100 the share alone holds 4: the next lowest are taken too
        let of_100: BTreeSet<usize> = [
            9, 13, 15, 20, 30, 33, 38, 39, 42, 44, 45, 50, 52, 53, 84, 97,
        ]
        .into();
        assert_eq!(kept(&all[..100], USUAL), of_100);
        let alone = Share { least: 0, ..USUAL };
        let mut share_of_100 = of_600;
        share_of_100.retain(|i| *i < 100);
        assert_eq!(kept(&all[..100], alone), share_of_100);
    }

    #[test]
    fn examples_that_are_added_or_repeated_move_no_other() {
        let all: Vec<usize> = (0..600).collect();
        let mut before = kept(&all[..32], USUAL);
        assert_eq!(before.len(), 16);
        for n in 33..600 {
            let now = kept(&all[..n], USUAL);
            // what was trained on stays: only what is new, or was kept before, is kept
            let new = now.difference(&before).all(|i| *i == n - 1);
            assert!(new, "{n}: {before:?} {now:?}");
            if kept(&all[..n - 1], Share { least: 0, ..USUAL }).len() >= 16 {
                assert!(before.is_subset(&now), "{n}");
            }
            before = now;
        }
        let backwards: Vec<usize> = all[..100].iter().rev().copied().collect();
        assert_eq!(kept(&backwards, USUAL), kept(&all[..100], USUAL));
        let repeated = [&all[..100], &all[..50], &[7; 40][..]].concat();
        assert_eq!(kept(&repeated, USUAL), kept(&all[..100], USUAL));
    }

    #[test]
    fn too_few_prompts_keep_none_aside_and_it_is_said() {
        let records: Vec<Record> = (0..31).chain(0..9).map(asking).collect();
        let (sides, said) = aside(&records, USUAL, DataTurns::Last);
        assert!(sides.iter().all(|side| !side));
        assert_eq!(
            said.note(),
            "no validation data: data.train has 31 different prompts, too few to keep 5 % aside \
             (32 are needed)"
        );
        let records: Vec<Record> = (0..32).map(asking).collect();
        let (_, said) = aside(&records, USUAL, DataTurns::Last);
        assert_eq!(
            said.note(),
            "kept aside for validation: 16 of 32 examples of data.train (5 %, 16 prompts at \
             least, by a hash of each prompt); data.validation = \"none\" turns that off (`run` then \
             wants data.held_out: it measures on rows that it does not train on)"
        );
    }

    #[test]
    fn a_prompt_is_its_roles_and_texts_and_a_conversation_stays_whole() {
        let side = |prompt: Vec<Message>, turns| hash(opening(&record(prompt), turns));
        let ask = || Message::user("q");
        let plain = side(vec![ask()], DataTurns::Last);
        assert_eq!(side(vec![Message::user(" q\n")], DataTurns::Last), plain);
        let system = || Message::new("system", "s");
        assert_ne!(side(vec![system(), ask()], DataTurns::Last), plain);
        let later = || vec![ask(), Message::assistant("a"), Message::user("q2")];
        assert_ne!(side(later(), DataTurns::Last), plain);
        assert_eq!(side(later(), DataTurns::Every), plain);
        // one that the assistant opens
        let opens = |rest: Vec<Message>| [vec![Message::assistant("Hello!")], rest].concat();
        let first = side(opens(vec![ask()]), DataTurns::Every);
        assert_eq!(side(opens(later()), DataTurns::Every), first);
    }
}
